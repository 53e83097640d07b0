"""A to-do list on Quart: visitors keep one without an account, and take it along when they log in.

Over the WebSocket `/items`, a client adds to the list and hears of what other tabs have added.

    pip install "roomkey[quart]"
    quart --app examples.quart_app:create_app run

It takes its settings from the environment: QUART_SECRET_KEY, QUART_ROOMKEY_STORE and the like.
"""

from __future__ import annotations

import secrets
from typing import Any

from quart import Quart, abort, flash, redirect, render_template_string, request, url_for, websocket
from werkzeug.wrappers import Response

from roomkey.quart import Roomkey, session

PAGE = """<!doctype html>
<title>To do</title>
{% for text in get_flashed_messages() %}<p>{{ text }}</p>{% endfor %}
<p>{{ session.user_id or "Nobody" }} is logged in, on {{ devices }} device(s).</p>
<ul>{% for item in session.items_to_do or [] %}<li>{{ item }}</li>{% endfor %}</ul>
<form method="post" action="{{ url_for("add") }}"><input name="item" required><button>Add</button></form>
{% if session.user_id %}
<form method="post" action="{{ url_for("log_out") }}"><button>Log out</button></form>
<form method="post" action="{{ url_for("log_out_everywhere") }}"><button>Log out everywhere</button></form>
{% else %}
<form method="post" action="{{ url_for("log_in") }}">
<input name="name" required> <label><input type="checkbox" name="stay"> Stay logged in</label> <button>Log in</button>
</form>
{% endif %}
"""


def add_item(item: str) -> None:
    # Nothing is lost where another tab adds something at the same moment.
    session.change("items_to_do", lambda items: [*items, item], default=[])


def create_app(settings: dict[str, Any] | None = None) -> Quart:
    """Make the app.

    Args:
        settings: of Quart and of Roomkey; None: those of the environment alone.
    """
    app = Quart(__name__)
    app.config.from_mapping(SECRET_KEY=secrets.token_urlsafe(32))  # sessions end when the app does, for development
    app.config.from_prefixed_env()
    app.config.from_mapping(settings or {})
    roomkey = Roomkey(app, store="memory://")

    @app.get("/")
    async def index() -> str:
        user = session.get("user_id")
        devices = 0 if user is None else len(await roomkey.manager.sessions.of(user))
        return await render_template_string(PAGE, devices=devices)

    @app.post("/add")
    async def add() -> Response:
        add_item((await request.form)["item"])
        return redirect(url_for("index"))

    @app.post("/login")
    async def log_in() -> Response:
        form = await request.form
        name = form["name"].strip()
        if not name:  # a real app asks for a password here
            abort(400)
        session["user_id"] = name  # the session gets a new ID
        session.permanent = "stay" in form
        await flash(f"Welcome, {name}.")
        return redirect(url_for("index"))

    @app.post("/logout")
    async def log_out() -> Response:
        session.clear()
        return redirect(url_for("index"))

    @app.post("/logout-everywhere")
    async def log_out_everywhere() -> Response:
        if "user_id" in session:
            await roomkey.manager.sessions.revoke_all(session["user_id"])
        return redirect(url_for("index"))

    @app.websocket("/items")
    async def items() -> None:
        while True:
            item = await websocket.receive()
            if item:  # an empty message only asks for the list
                add_item(str(item))
            # The handler never returns: save now. What other tabs have added meanwhile comes with it.
            await session.save()
            await session.refresh()
            await websocket.send_json(session.get("items_to_do", []))

    return app
