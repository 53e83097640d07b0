"""An account of a Redis server with the rights that the documentation names can do all that the store does."""

import asyncio
import contextlib
import re
from pathlib import Path

import pytest
import redis

from roomkey import ConfigurationError, SessionManager
from roomkey.stores.redis import RedisStore
from roomkey.testing import StoreContract
from tests.servers.redis import RedisServer

ROOT = Path(__file__).resolve().parents[3]
[KEYS, COMMANDS] = re.search(
    r"needs the keys `(~\S+)` .*? and `([^`]+)`", (ROOT / "docs/howto-stores.md").read_text()
).groups()
WATCHING = ["&roomkey:*", "+publish", "+subscribe", "+ping"]  # as docs/howto-live.md has it


def _with_account(server, *, commands):
    """Make the account, and return its URL."""
    with contextlib.closing(redis.Redis(port=server.port)) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", KEYS, *commands)
    return f"redis://app:secret@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="class")
def server(request):
    with RedisServer() as running:
        request.cls.url = _with_account(running, commands=[*COMMANDS.split(), *WATCHING])
        yield running


@pytest.mark.usefixtures("server")
class TestAccount(StoreContract):
    async def make(self, clock):
        store = RedisStore(self.url, clock=clock)
        await store.wipe()
        return store


def test_what_is_left_out_is_missed():
    """Without the last two rights only the warnings are missing; without the first, the store says what it may not."""

    async def look(url):
        store = RedisStore(url)
        try:
            await store.open()
            return await store.load("0" * 64)
        finally:
            await store.close()

    with RedisServer() as server:
        assert asyncio.run(look(_with_account(server, commands=COMMANDS.split()[:-2]))) is None
        with pytest.raises(ConfigurationError, match="may not do what sessions need"):
            asyncio.run(look(_with_account(server, commands=COMMANDS.split()[3:])))


async def _opened(url, **options):
    manager = SessionManager(secret_key="k" * 32, store=url, near_cache=10, **options)
    async with manager:
        return manager.near.notices.hold(60)


def test_what_near_cache_needs():
    """With the rights that the page names, the server tells of changes. Without them, opening says what is refused."""
    page = (ROOT / "docs/howto-near.md").read_text()
    more = re.search(r"add `(\+hello [^`]+)`", page)[1].split()
    with RedisServer() as server:
        assert asyncio.run(_opened(_with_account(server, commands=[*COMMANDS.split(), *more])))
        without = [right for right in more if not right.startswith("+client")]
        with pytest.raises(ConfigurationError, match=r"near_cache: <RedisStore .* refuses CLIENT TRACKING \(NOPERM\)"):
            asyncio.run(_opened(_with_account(server, commands=[*COMMANDS.split(), *without])))


def test_near_cache_without_the_channel():
    """The right to subscribe only helps the server to cut off who falls behind."""
    with RedisServer() as server:
        rights = [*COMMANDS.split(), "+hello", "+client|tracking"]
        assert asyncio.run(_opened(_with_account(server, commands=rights)))
