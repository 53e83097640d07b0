"""Every adaptor tells the same story: real server processes of its framework, one Redis, and `tests/story.py`."""

import contextlib

import pytest

from tests.loop_clock import HANGS
from tests.servers.redis import RedisServer
from tests.sites.running import COMMANDS, Running
from tests.story import tell, tell_of_an_outage

HURRIED = 0.5  # seconds: the store_timeout of the process that is asked during the outage


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("name", COMMANDS)
async def test_the_story(name, redis, tmp_path):
    """Cookies, log-ins, log-outs, requests at once and an outage are the same in two processes of this framework."""
    framework = name.split()[0]
    pytest.importorskip(framework)
    with contextlib.ExitStack() as stack:
        servers = [Running(name, redis.url, tmp_path, timeout) for timeout in (HANGS, HANGS, HURRIED)]
        for server in servers:
            stack.enter_context(server)
        *urls, hurried = [server.when_ready() for server in servers]
        await tell(urls)
        await tell_of_an_outage(urls, hurried, redis.pause, redis.resume)
