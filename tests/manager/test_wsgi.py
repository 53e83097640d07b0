"""A WSGI app with sessions on a real threaded server, asked by real HTTP clients."""

import contextlib
import socketserver
import threading
import wsgiref.simple_server

import httpx
import pytest

from roomkey import StoreUnavailable
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from tests.manager.parts import WaitingStore, make

CLIENTS = 16
ROUNDS = 5


class Shop:
    """A WSGI app: /login, /count, /flash, /page (which takes the messages), /logout, and /fail."""

    def __init__(self, manager):
        self._manager = manager

    def __call__(self, environ, start_response):
        status, headers, body = self._answer(environ)
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, environ):
        sync = self._manager.sync
        try:
            session = sync.load(environ.get("HTTP_COOKIE"))
        except StoreUnavailable as error:
            return self._unavailable(error)
        try:
            body = self._page(environ["PATH_INFO"], session)
            headers = [("Content-Type", "text/plain"), ("Cache-Control", "public, max-age=60")]
            return "200 OK", sync.commit(session, headers=headers), body
        except StoreUnavailable as error:
            sync.abandon(session)
            status, headers, body = self._unavailable(error)
            return status, sync.commit(session, status=503, headers=headers), body
        except Exception:
            sync.abandon(session)
            headers = sync.commit(session, status=500, headers=[("Content-Type", "text/plain")])
            return "500 Internal Server Error", headers, b"it failed"

    def _unavailable(self, error):
        return "503 Service Unavailable", [("Retry-After", str(error.retry_after))], b"try again"

    def _page(self, path, session):
        match path:
            case "/login":
                session["user_id"] = 7
            case "/count":
                session.change("n", lambda n: n + 1, 0)
            case "/flash":
                session.flash("saved")
            case "/page":
                return repr(self._manager.sync.flashes(session)).encode()
            case "/logout":
                session.clear()
            case "/fail":
                session["n"] = -1
                raise ZeroDivisionError
        return repr(dict(session)).encode()


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """A thread for each request."""

    request_queue_size = 128
    daemon_threads = True


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(manager):
    """Serve a shop; gives its URL."""
    with wsgiref.simple_server.make_server("127.0.0.1", 0, Shop(manager), Server, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    manager.sync.close()


@pytest.fixture(params=["memory", "waiting", "sqlite"])
def store(request, tmp_path):
    stores = {"memory": MemoryStore, "waiting": WaitingStore, "sqlite": lambda: SQLiteStore(tmp_path / "sessions.db")}
    return stores[request.param]()


def client(url):
    """A browser: it keeps the cookies that it is given."""
    return httpx.Client(base_url=url, timeout=120, trust_env=False)


def test_log_in_count_and_log_out(store):
    """One browser in many tabs: every count arrives, nobody is logged out by the way, and the log-out is final."""
    with serving(make(store)) as url, client(url) as browser:
        answer = browser.get("/login")
        assert answer.headers["vary"] == "Cookie" and answer.headers["cache-control"] == "no-store"
        cookie = browser.cookies["session"]
        failures = []

        def count():
            try:
                with httpx.Client(base_url=url, timeout=120, cookies={"session": cookie}, trust_env=False) as tab:
                    for _ in range(ROUNDS):
                        answer = tab.get("/count")
                        assert answer.status_code == 200 and "set-cookie" not in answer.headers
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=count) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert browser.get("/").text == str({"user_id": 7, "n": CLIENTS * ROUNDS})
        browser.get("/logout")
        assert "session" not in browser.cookies
        with httpx.Client(base_url=url, cookies={"session": cookie}, timeout=120, trust_env=False) as copy:
            assert copy.get("/").text == "{}"


def test_messages_are_shown_once(store):
    """Two pages at once: one of them shows the message."""
    with serving(make(store)) as url, client(url) as browser:
        browser.get("/flash")
        cookie, shown = browser.cookies["session"], []

        def show():
            with httpx.Client(base_url=url, cookies={"session": cookie}, timeout=120, trust_env=False) as tab:
                shown.append(tab.get("/page").text)

        threads = [threading.Thread(target=show) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(shown) == sorted(["[('info', 'saved')]", "[]", "[]", "[]"])


def test_a_request_that_fails_saves_nothing(store):
    """The page after it shows the session as it was."""
    with serving(make(store)) as url, client(url) as browser:
        browser.get("/count")
        assert browser.get("/fail").status_code == 500
        assert browser.get("/").text == str({"n": 1})


def test_an_outage_is_a_503(settled):
    """With Retry-After, for reads and for writes; and the session is there again afterwards."""
    store = WaitingStore()
    with serving(make(store)) as url, client(url) as browser:
        browser.get("/count")
        for failing, path in (("load", "/"), ("update", "/count")):
            store.failing.add(failing)
            answer = browser.get(path)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            store.failing.clear()
        assert browser.get("/count").text == str({"n": 2})
