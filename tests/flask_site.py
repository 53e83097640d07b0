"""The Flask apps of the tests: one for a test client, and one for real servers."""

from flask import Flask, Response, stream_with_context

from roomkey.flask import Roomkey, session
from roomkey.stores.memory import MemoryStore
from tests.manager.parts import SECRET
from tests.sites import reach_blocking

__all__ = ["add_routes", "asking", "cookie", "create_app", "make_app", "served", "set_cookies"]


def make_app(store=None, *, routes=True, settings=None, **options):
    """Return an app, with its `Roomkey`."""
    app = Flask(__name__)
    app.config.from_mapping({"SECRET_KEY": SECRET} | (settings or {}))
    roomkey = Roomkey(app, store=MemoryStore() if store is None else store, **options)
    if routes:
        add_routes(app)
    return app, roomkey


def create_app(**settings) -> Flask:
    """Make the app of a server, for gunicorn."""
    return make_app(settings=settings)[0]


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


def served() -> Flask:
    """Make the app of a server: the story's site, and two pages more. It uses its store before workers are forked."""
    from tests.sites.flask import app, roomkey

    @app.get("/sessions/<user>")
    def sessions(user):
        return str(len(roomkey.manager.sync.sessions.of(user, current=session)))

    @app.get("/stream/<gate>")
    def stream(gate):
        @stream_with_context
        def chunks():
            yield "begun"
            reach_blocking(gate)
            session["streamed"] = True
            yield "ended"

        return Response(chunks())

    with app.test_client() as client:
        client.get("/add/n")
    return app
