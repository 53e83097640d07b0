"""Django on real servers: gunicorn's threads, uvicorn, and Channels' WebSockets; two worker processes each."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port
from tests.servers.redis import RedisServer

pytest.importorskip("django")
pytest.importorskip("gunicorn")

ROOT = Path(__file__).parent.parent
TOGETHER = 20  # requests at once
GUNICORN = ["gunicorn", "--workers", "2", "--timeout", str(HANGS), "--bind", "127.0.0.1:{port}"]
SERVERS = {
    "wsgi": [*GUNICORN, "--worker-class", "gthread", "--threads", "12", "--preload", "tests.django_served:wsgi"],
    "gevent": [*GUNICORN, "--worker-class", "gevent", "tests.django_served:wsgi"],
    "asgi": ["uvicorn", "--workers", "2", "--lifespan", "off", "--port", "{port}", "tests.django_served:asgi"],
    "daphne": ["daphne", "-p", "{port}", "tests.django_served:asgi"],
}


class Server:
    """The site in processes of a server's."""

    def __init__(self, kind: str, store: str, folder: Path) -> None:
        self.kind, self.folder, self.port = kind, folder, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.views = "/a" if kind == "asgi" else ""  # coroutines
        environment = {
            **os.environ,
            "HOME": str(folder),  # where gunicorn puts a socket
            "DJANGO_SITE_STORE": store,
            "DJANGO_SITE_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
        }
        migrate = [sys.executable, "-m", "tests.django_served", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=ROOT, env=environment, check=True, timeout=HANGS)
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=self.port) for part in SERVERS[kind])],
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + HANGS
        while True:
            try:
                httpx.get(f"http://{self.address}/nothing", timeout=HANGS, trust_env=False)
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

    def browser(self, card: str | None = None):
        cookies = {} if card is None else {"sessionid": card}
        return httpx.Client(base_url=f"http://{self.address}", timeout=HANGS, cookies=cookies, trust_env=False)

    @contextmanager
    def socket(self, path: str, card: str | None = None):
        from websockets.sync.client import connect

        headers = {} if card is None else {"Cookie": f"theme=dark; sessionid={card}"}
        url = f"ws://{self.address}/{path}"
        with connect(url, additional_headers=headers, open_timeout=HANGS, proxy=None) as socket:
            yield socket

    def meeting(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def server(request, tmp_path_factory):
    with RedisServer() as redis:
        server = Server(request.param, redis.url, tmp_path_factory.mktemp("django"))
        server.redis = redis
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
    views = server.views
    with server.browser() as browser:
        answer = browser.get(f"{views}/")
        assert answer.json() == {} and "set-cookie" not in answer.headers and answer.headers["vary"] == "Cookie"
        answer = browser.get(f"{views}/write/cart")
        assert "no-store" in answer.headers["cache-control"] and "Max-Age=1209" in answer.headers["set-cookie"]
        first = browser.cookies["sessionid"]
        browser.get(f"{views}/login/ann")
        second = browser.cookies["sessionid"]
        assert second != first and browser.get(f"{views}/").json()["cart"] == 1
        assert browser.get("/who").text == "ann" == browser.get("/a/who").text
        with server.browser(first) as stale:
            assert stale.get("/").json() == {} == stale.get("/a/").json()
        browser.get(f"{views}/logout")
        assert "sessionid" not in browser.cookies
        with server.browser(second) as copy:
            assert copy.get("/").json() == {} == copy.get("/a/").json()


def test_requests_at_once_keep_each_others_changes(server):
    """In two processes, by views of both kinds: every key is there, and every count."""
    with server.browser() as browser:
        browser.get("/login/bob")
        card = browser.cookies["sessionid"]

        def ask(path):
            with server.browser(card) as tab:
                answer = tab.get(path)
                assert answer.status_code == 200 and "set-cookie" not in answer.headers
                return tab.get("/pid").text

        pids = together(*(lambda n=n: ask(f"{n % 2 * '/a'}/write/key{n}") for n in range(TOGETHER)))
        pids += together(*(lambda n=n: ask(f"{n % 2 * '/a'}/count") for n in range(TOGETHER)))
        found = browser.get("/").json()
        assert found["n"] == TOGETHER and {f"key{n}" for n in range(TOGETHER)} < set(found)
        while len(set(pids)) < 2:
            pids += together(*(lambda: ask("/pid") for _ in range(TOGETHER)))
        assert browser.get("/devices").json() == [True] == browser.get("/a/devices").json()


def test_a_log_out_is_final(server):
    """A request that was running brings the session back no more, and is told so."""
    folder = server.meeting("log-out")
    with server.browser() as browser:
        browser.get("/login/eve")
        card = browser.cookies["sessionid"]
        answers = []

        def ask_slowly():
            with server.browser(card) as tab:
                answers.append(tab.get(f"{server.views}/slow/log-out"))

        slow = threading.Thread(target=ask_slowly)
        slow.start()
        wait_for(folder / "reached")
        browser.get(f"{server.views}/logout")
        (folder / "go on").touch()
        slow.join()
        assert answers[0].status_code == 400 and "set-cookie" not in answers[0].headers
        with server.browser(card) as copy:
            assert copy.get("/").json() == {}


def test_a_stream_saves_at_its_end(server):
    """What it puts in after its first chunk is there once the last one has come."""
    folder = server.meeting("stream")
    with server.browser() as browser:
        browser.get("/login/joe")
        with browser.stream("GET", f"{server.views}/stream/stream") as answer:
            chunks = answer.iter_text()
            assert next(chunks) == "begun"
            wait_for(folder / "reached")
            assert "streamed" not in browser.get("/").json()
            (folder / "go on").touch()
            assert "".join(chunks) == "ended"
        assert browser.get("/").json()["streamed"] is True


def test_a_store_that_is_gone(server):
    """While Redis is away, a request that needs it is a 503, and one that does not is served; then all is as before."""
    with server.browser() as browser:
        browser.get("/login/mia")
        server.redis.stop()
        try:
            for views in ("", "/a"):
                answer = browser.get(f"{views}/count")
                assert answer.status_code == 503 and answer.headers["cache-control"] == "no-store"
                assert int(answer.headers["retry-after"]) > 0 and "set-cookie" not in answer.headers
            assert browser.get("/nothing").status_code == 204
            with server.browser() as visitor:
                assert visitor.get("/").json() == {}
        finally:
            server.redis.start()
        deadline = time.monotonic() + HANGS
        while browser.get("/who").status_code == 503:
            assert time.monotonic() < deadline
        with server.browser() as visitor:
            visitor.get("/count")
            assert visitor.get("/").json() == {"n": 1}


def test_greenlets(tmp_path):
    """Under gevent, in two processes: every key is there, and every count. Django's coroutines do not run there."""
    pytest.importorskip("gevent")
    server = Server("gevent", f"sqlite:///{tmp_path}/sessions.db", tmp_path)
    with server.browser() as browser:
        browser.get("/login/noa")
        card = browser.cookies["sessionid"]

        def ask(path):
            with server.browser(card) as tab:
                assert tab.get(path).status_code == 200

        together(*(lambda n=n: ask(f"/write/key{n}") for n in range(TOGETHER)))
        together(*(lambda: ask("/count") for _ in range(TOGETHER)))
        found = browser.get("/").json()
        assert found["n"] == TOGETHER and {f"key{n}" for n in range(TOGETHER)} < set(found)
        assert browser.get("/who").text == "noa" and browser.get("/devices").json() == [True]
    assert "Traceback" not in server.stop()


# --- Channels ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["asgi", "daphne"])
def channels(request, tmp_path_factory):
    pytest.importorskip("channels")
    if request.param == "daphne":
        pytest.importorskip("daphne")
    folder = tmp_path_factory.mktemp("channels")
    server = Server(request.param, f"sqlite:///{folder}/sessions.db", folder)
    yield server
    assert "Traceback" not in server.stop()


def asked(socket, text):
    socket.send(text)
    return json.loads(socket.recv(timeout=HANGS))


def test_a_websocket_knows_the_user(channels):
    """`scope["user"]` and `scope["session"]`, with what was saved over HTTP."""
    with channels.browser() as browser:
        browser.get("/login/kay")
        browser.get("/count")
        card = browser.cookies["sessionid"]
    with channels.socket("chat", card) as socket:
        assert json.loads(socket.recv(timeout=HANGS)) == ["kay", 1]
    with channels.socket("blocking", card) as socket:
        assert json.loads(socket.recv(timeout=HANGS)) == 1
    with channels.socket("chat") as socket:
        assert json.loads(socket.recv(timeout=HANGS)) == ["nobody", None]


def test_what_a_websocket_saves(channels):
    """Its changes and those of requests meanwhile are merged, whichever loaded the session first."""
    with channels.browser() as browser:
        browser.get("/count")
        card = browser.cookies["sessionid"]
        with channels.socket("chat", card) as socket, channels.socket("blocking", card) as other:
            for each in (socket, other):
                each.recv(timeout=HANGS)
            browser.get("/write/http")
            assert set(asked(socket, "first")) >= {"first", "http", "n"}
            assert set(asked(other, "second")) >= {"first", "second", "http", "n"}
        assert browser.get("/").json() == {"n": 1, "http": 1, "first": 1, "second": 1}


def test_a_websocket_does_not_revive_a_session(channels):
    """After a log-out over HTTP, what an open socket saves is an UpdateError, as in Django."""
    with channels.browser() as browser:
        browser.get("/login/liz")
        card = browser.cookies["sessionid"]
        with channels.socket("chat", card) as socket:
            socket.recv(timeout=HANGS)
            browser.get("/logout")
            assert asked(socket, "late") == "UpdateError"
        with channels.socket("chat", card) as socket:
            assert json.loads(socket.recv(timeout=HANGS)) == ["nobody", None]
