"""Flask's own sessions, which are all in the cookie."""

from typing import Any

from flask import Flask, session

from benchmarks.probes import deeds

app = Flask(__name__)
app.secret_key = "k" * 43


@app.get("/<deed>/<name>")
def page(deed: str, name: str) -> dict[str, Any]:
    match deed:
        case "about":
            return {"login": None, "list": None}
        case "slow":
            session.get("user_id")
            deeds.wait_blocking()
            session[name] = 1
        case "enter":
            session["user_id"] = name
        case "logout":
            session.clear()
        case _:
            return deeds.act(session, deed, name)
    return deeds.shown(session)
