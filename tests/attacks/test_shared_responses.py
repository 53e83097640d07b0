"""An app that returns one response object for everybody: nobody gets the cookie of another visitor with it."""

import flask
import quart

from roomkey.flask import Roomkey
from roomkey.quart import Roomkey as QuartRoomkey

SECRET = "a secret that is long enough for every test here"


def put_into(session, name):
    if name != "none":
        session["name"] = name


def test_flask():
    """On Flask."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    Roomkey(app, store="memory://")
    shared = app.response_class("hello", headers={"X-App": "1"})

    @app.get("/<name>")
    def index(name):
        put_into(flask.session, name)
        return shared

    ann, ben, visitor = (app.test_client() for _ in range(3))
    first, second, third = ann.get("/ann"), ben.get("/ben"), visitor.get("/none")
    assert ann.get_cookie("session").value != ben.get_cookie("session").value
    assert len(second.headers.getlist("Set-Cookie")) == 1 and "Set-Cookie" not in third.headers
    assert {each.text for each in (first, second, third)} == {"hello"}
    assert [*shared.headers.keys()] == ["X-App", "Content-Type", "Content-Length"]


async def test_quart():
    """On Quart."""
    app = quart.Quart(__name__)
    app.secret_key = SECRET
    QuartRoomkey(app, store="memory://")
    shared = app.response_class("hello", headers={"X-App": "1"})

    @app.get("/<name>")
    async def index(name):
        put_into(quart.session, name)
        return shared

    first, second, third = [await app.test_client().get(f"/{name}") for name in ("ann", "ben", "none")]
    assert first.headers["Set-Cookie"] != second.headers["Set-Cookie"]
    assert len(second.headers.getlist("Set-Cookie")) == 1 and "Set-Cookie" not in third.headers
    assert {await each.get_data(as_text=True) for each in (first, second, third)} == {"hello"}
    assert "Set-Cookie" not in shared.headers and "Vary" not in shared.headers
