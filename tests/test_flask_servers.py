"""Flask on real servers: worker processes that were forked from a loaded app, threads and greenlets."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.servers.redis import RedisServer
from tests.sites.running import Running
from tests.story import tell

pytest.importorskip("gunicorn")

OPTIONS = ["--workers", "2", "--bind", "127.0.0.1:{port}", "--timeout", str(HANGS), "--graceful-timeout", "10"]
WORKERS = {
    "gthread, preloaded": ["--worker-class", "gthread", "--threads", "12", "--preload"],
    "gevent": ["--worker-class", "gevent"],
}
TOGETHER = 20  # requests at once


@pytest.fixture(scope="module")
def redis_url():
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module", params=[(kind, store) for kind in WORKERS for store in ("sqlite", "redis")], ids=str)
def url(request, tmp_path_factory):
    kind, store = request.param
    if "gevent" in kind:
        pytest.importorskip("gevent")
    folder = tmp_path_factory.mktemp("gunicorn")
    store = f"sqlite:///{folder}/sessions.db" if store == "sqlite" else request.getfixturevalue("redis_url")
    command = ["gunicorn", *OPTIONS, *WORKERS[kind], "tests.flask_site:served()"]
    with Running("flask", store, folder, command=command) as server:
        yield server.when_ready()


def browser(url):
    return httpx.Client(base_url=url, timeout=HANGS, trust_env=False)


def wait_for(client, gate):
    deadline = time.monotonic() + HANGS
    while not client.get(f"/begun/{gate}").json()["begun"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def test_the_story(url):
    """In two processes, with threads or greenlets in each, and whichever store."""
    await tell([url])


def test_a_users_sessions(url):
    """Requests at once leave one session of the user, and a request that outlives the log-out leaves none."""
    user = f"eve{url.rpartition(':')[2]}"  # the servers share Redis
    with browser(url) as mine, ThreadPoolExecutor(TOGETHER) as pool:
        mine.get(f"/login/{user}")
        card = {"Cookie": f"session={mine.cookies['session']}"}

        def ask(path):
            return httpx.get(f"{url}{path}", headers=card, timeout=HANGS, trust_env=False)

        answers = [*pool.map(ask, [f"/write/{number}" for number in range(TOGETHER)])]
        assert not any("set-cookie" in answer.headers for answer in answers)
        assert mine.get(f"/sessions/{user}").text == "1"
        slow = pool.submit(ask, "/slow/log-out")
        wait_for(mine, "log-out")
        mine.get("/logout/-")
        assert "session" not in mine.cookies
        mine.get("/open/log-out")
        assert slow.result().status_code == 200
        assert mine.get(f"/sessions/{user}").text == "0"


def test_a_stream_saves_at_its_end(url):
    """What it puts in after its first chunk is there once the last one has come."""
    with browser(url) as mine:
        mine.get("/login/joe")
        with mine.stream("GET", "/stream/end") as answer:
            chunks = answer.iter_text()
            assert next(chunks) == "begun"
            wait_for(mine, "end")
            assert "streamed" not in mine.get("/show/-").json()["session"]
            mine.get("/open/end")
            assert "".join(chunks) == "ended"
        assert mine.get("/show/-").json()["session"]["streamed"] is True
