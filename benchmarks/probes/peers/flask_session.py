"""Flask-Session in Redis."""

import os
from typing import Any, cast

from flask import Flask, session
from flask_session import Session
from flask_session.redis import RedisSessionInterface
from redis import Redis

from benchmarks.probes import deeds

app = Flask(__name__)
app.config.from_mapping(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(os.environ["PROBE_REDIS"]))
Session(app)


@app.get("/<deed>/<name>")
def page(deed: str, name: str) -> dict[str, Any]:
    match deed:
        case "about":
            return {"login": "`regenerate()`", "list": None}
        case "slow":
            session.get("user_id")
            deeds.wait_blocking()
            session[name] = 1
        case "enter":
            cast(RedisSessionInterface, app.session_interface).regenerate(cast(Any, session))
            session["user_id"] = name
        case "logout":
            session.clear()
        case _:
            return deeds.act(session, deed, name)
    return deeds.shown(session)
