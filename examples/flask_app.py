"""A to-do list on Flask: visitors keep one without an account, and take it along when they log in.

    pip install "roomkey[flask]"
    flask --app examples.flask_app run

It takes its settings from the environment: FLASK_SECRET_KEY, FLASK_ROOMKEY_STORE and the like.
"""

from __future__ import annotations

import secrets
from typing import Any

from flask import Flask, abort, flash, redirect, render_template_string, request, url_for
from werkzeug.wrappers import Response

from roomkey.flask import Roomkey, session

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


def create_app(settings: dict[str, Any] | None = None) -> Flask:
    """Make the app.

    Args:
        settings: of Flask and of Roomkey; None: those of the environment alone.
    """
    app = Flask(__name__)
    app.config.from_mapping(SECRET_KEY=secrets.token_urlsafe(32))  # sessions end when the app does, for development
    app.config.from_prefixed_env()
    app.config.from_mapping(settings or {})
    roomkey = Roomkey(app, store="memory://")

    @app.get("/")
    def index() -> str:
        user = session.get("user_id")
        devices = 0 if user is None else len(roomkey.manager.sync.sessions.of(user))
        return render_template_string(PAGE, devices=devices)

    @app.post("/add")
    def add() -> Response:
        item = request.form["item"]
        # Nothing is lost where another tab adds something at the same moment.
        session.change("items_to_do", lambda items: [*items, item], default=[])
        return redirect(url_for("index"))

    @app.post("/login")
    def log_in() -> Response:
        name = request.form["name"].strip()
        if not name:  # a real app asks for a password here
            abort(400)
        session["user_id"] = name  # the session gets a new ID
        session.permanent = "stay" in request.form
        flash(f"Welcome, {name}.")
        return redirect(url_for("index"))

    @app.post("/logout")
    def log_out() -> Response:
        session.clear()
        return redirect(url_for("index"))

    @app.post("/logout-everywhere")
    def log_out_everywhere() -> Response:
        if "user_id" in session:
            roomkey.manager.sync.sessions.revoke_all(session["user_id"])
        return redirect(url_for("index"))

    return app
