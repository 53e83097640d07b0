"""The Flask apps of the tests: one for a test client, and one for real servers."""

import os
import time
from pathlib import Path

from flask import Flask, Response, stream_with_context

from roomkey.flask import Roomkey, session
from roomkey.stores.memory import MemoryStore
from tests.loop_clock import HANGS
from tests.manager.parts import SECRET

__all__ = ["add_routes", "asking", "cookie", "create_app", "make_app", "served", "set_cookies"]


def make_app(store=None, *, routes=True, settings=None, **options):
    """Return an app, with its `Roomkey`."""
    app = Flask(__name__)
    app.config.from_mapping({"SECRET_KEY": SECRET} | (settings or {}))
    roomkey = Roomkey(app, store=MemoryStore() if store is None else store, **options)
    if routes:
        add_routes(app)
    return app, roomkey


def add_routes(app):
    @app.get("/")
    def index():
        return dict(session)

    @app.get("/nothing")
    def nothing():
        return ""

    @app.get("/count")
    def count():
        return str(session.change("n", lambda n: n + 1, default=0))

    @app.get("/login/<user>")
    def log_in(user):
        session["user_id"] = user
        return ""

    @app.get("/logout")
    def log_out():
        session.clear()
        return ""

    @app.get("/fail")
    def fail():
        session["failed"] = True
        raise ZeroDivisionError


def cookie(client, name="session"):
    found = client.get_cookie(name)
    return found and found.value


def asking(app, card):
    """Return a client that has this cookie."""
    client = app.test_client()
    client.set_cookie("session", card)
    return client


def set_cookies(answer):
    return answer.headers.getlist("Set-Cookie")


def create_app(**settings) -> Flask:
    """Make the app."""
    app = Flask(__name__)
    app.config.from_mapping(SECRET_KEY=SECRET, **settings)
    roomkey = Roomkey(app, store_timeout=HANGS)

    @app.get("/")
    def index():
        return dict(session)

    @app.get("/nothing")
    def nothing():
        return "", 204

    @app.get("/pid")
    def pid():
        return str(os.getpid())

    @app.get("/write/<key>")
    def write(key):
        session[key] = 1
        return "written"

    @app.get("/count")
    def count():
        return str(session.change("n", lambda n: n + 1, default=0))

    @app.get("/login/<user>")
    def log_in(user):
        session["user_id"] = user
        return session.handle

    @app.get("/logout")
    def log_out():
        session.clear()
        return "bye"

    @app.get("/sessions/<user>")
    def sessions(user):
        return str(len(roomkey.manager.sync.sessions.of(user, current=session)))

    @app.get("/slow/<folder>")
    def slow(folder):
        """Write a key that was read before a file appeared."""
        before = session["user_id"]
        _meet(folder)
        session["late"] = before
        return "late"

    @app.get("/stream/<folder>")
    def stream(folder):
        @stream_with_context
        def chunks():
            yield "begun"
            _meet(folder)
            session["streamed"] = True
            yield "ended"

        return Response(chunks())

    return app


def _meet(folder):
    folder = Path(os.environ["FLASK_SITE_FOLDER"], folder)
    Path(folder, "reached").touch()
    while not Path(folder, "go on").exists():
        time.sleep(0.005)


def served() -> Flask:
    """Make the app of a server: its settings come from the environment."""
    app = create_app(ROOMKEY_STORE=os.environ["FLASK_SITE_STORE"])
    with app.test_client() as client:  # a store that is used while the app is loaded, before the workers are forked
        client.get("/count")
    return app
