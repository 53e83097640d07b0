"""Flask on real servers: worker processes that were forked from a loaded app, threads and greenlets."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port
from tests.servers.redis import RedisServer

pytest.importorskip("gunicorn")

ROOT = Path(__file__).parent.parent
WORKERS = {
    "gthread, preloaded": ["--worker-class", "gthread", "--threads", "12", "--preload"],
    "gevent": ["--worker-class", "gevent"],
}
TOGETHER = 20  # requests at once


class Gunicorn:
    """Two worker processes that serve `tests/flask_site.py`."""

    def __init__(self, kind: str, store: str, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        address = f"127.0.0.1:{self.port}"
        self.url = f"http://{address}"
        options = ["--workers", "2", "--bind", address, "--timeout", str(HANGS), "--graceful-timeout", "10"]
        environment = {
            **os.environ,
            "HOME": str(folder),  # where it puts a socket
            "FLASK_SITE_STORE": store,
            "FLASK_SITE_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
        }
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, *WORKERS[kind], "tests.flask_site:served()"],
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + HANGS
        while True:
            try:
                httpx.get(f"{self.url}/nothing", timeout=HANGS, trust_env=False)
                return
            except httpx.TransportError:
                assert self._process.poll() is None and time.monotonic() < deadline, self.said()
                time.sleep(0.05)

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self) -> str:
        """End the server. Returns what it has said."""
        self._process.terminate()
        self._process.wait(HANGS)
        self._log.close()
        return self.said()

    def browser(self, cookie: str | None = None):
        cookies = {} if cookie is None else {"session": cookie}
        return httpx.Client(base_url=self.url, timeout=HANGS, cookies=cookies, trust_env=False)


@pytest.fixture(scope="module")
def redis_url():
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module", params=[(kind, store) for kind in WORKERS for store in ("sqlite", "redis")], ids=str)
def server(request, tmp_path_factory):
    kind, store = request.param
    if "gevent" in kind:
        pytest.importorskip("gevent")
    folder = tmp_path_factory.mktemp("gunicorn")
    url = f"sqlite:///{folder}/sessions.db" if store == "sqlite" else request.getfixturevalue("redis_url")
    server = Gunicorn(kind, url, folder)
    yield server
    assert "Traceback" not in server.stop()


def together(*calls):
    """Make all calls at once, each in a thread. Returns what they return."""
    answers: list = [None] * len(calls)

    def make(number):
        answers[number] = calls[number]()

    threads = [threading.Thread(target=make, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def wait_for(path):
    deadline = time.monotonic() + HANGS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_life_of_a_session(server):
    """Nothing, a write, a log-in, a log-out: the cookie comes, changes and goes, and its copy is refused."""
    with server.browser() as browser:
        answer = browser.get("/")
        assert answer.json() == {} and "set-cookie" not in answer.headers and answer.headers["vary"] == "Cookie"
        answer = browser.get("/write/cart")
        assert answer.headers["cache-control"] == "no-store" and "Max-Age" not in answer.headers["set-cookie"]
        first = browser.cookies["session"]
        browser.get("/login/ann")
        second = browser.cookies["session"]
        assert second != first and browser.get("/").json() == {"cart": 1, "user_id": "ann"}
        with server.browser(first) as stale:
            assert stale.get("/").json() == {}
        browser.get("/logout")
        assert "session" not in browser.cookies
        with server.browser(second) as copy:
            assert copy.get("/").json() == {}


def test_requests_at_once_keep_each_others_changes(server):
    """In two processes, with threads or greenlets in each: every key is there, and every count."""
    bob = f"bob{server.port}"  # the servers share Redis
    with server.browser() as browser:
        browser.get(f"/login/{bob}")
        cookie = browser.cookies["session"]

        def ask(path):
            with server.browser(cookie) as tab:
                answer = tab.get(path)
                assert answer.status_code == 200 and "set-cookie" not in answer.headers
                return tab.get("/pid").text

        pids = together(*(lambda n=n: ask(f"/write/key{n}") for n in range(TOGETHER)))
        pids += together(*(lambda: ask("/count") for _ in range(TOGETHER)))
        assert browser.get("/").json() == {"user_id": bob, "n": TOGETHER} | {f"key{n}": 1 for n in range(TOGETHER)}
        while len(set(pids)) < 2:
            pids += together(*(lambda: ask("/pid") for _ in range(TOGETHER)))
        assert browser.get(f"/sessions/{bob}").text == "1"


def test_a_log_out_is_final(server):
    """A request that was running brings the session back no more."""
    eve, folder = f"eve{server.port}", server.folder / "log-out"
    folder.mkdir()
    with server.browser() as browser:
        browser.get(f"/login/{eve}")
        cookie = browser.cookies["session"]

        def ask_slowly():
            with server.browser(cookie) as tab:
                tab.get("/slow/log-out")

        slow = threading.Thread(target=ask_slowly)
        slow.start()
        wait_for(folder / "reached")
        browser.get("/logout")
        (folder / "go on").touch()
        slow.join()
        with server.browser(cookie) as copy:
            assert copy.get("/").json() == {}
        assert browser.get(f"/sessions/{eve}").text == "0"


def test_a_stream_saves_at_its_end(server):
    """What it puts in after its first chunk is there once the last one has come."""
    folder = server.folder / "stream"
    folder.mkdir()
    with server.browser() as browser:
        browser.get("/login/joe")
        with browser.stream("GET", "/stream/stream") as answer:
            chunks = answer.iter_text()
            assert next(chunks) == "begun"
            wait_for(folder / "reached")
            assert "streamed" not in browser.get("/").json()
            (folder / "go on").touch()
            assert "".join(chunks) == "ended"
        assert browser.get("/").json()["streamed"] is True
