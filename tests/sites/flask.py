"""The story's site on Flask."""

import json
import os

from flask import Flask

from roomkey.flask import Roomkey, session
from tests import sites

app = Flask(__name__)
app.secret_key = os.environ["ROOMKEY_SECRET_KEY"]
roomkey = Roomkey(
    app,
    store=os.environ["ROOMKEY_STORE"],
    store_timeout=float(os.environ["ROOMKEY_STORE_TIMEOUT"]),
    clear_site_data=json.loads(os.environ["ROOMKEY_CLEAR_SITE_DATA"]),
)


@app.get("/slow/<name>")
def slow(name):
    user = session["user_id"]
    sites.reach_blocking(name)
    session["late"] = user
    return sites.seen(session)


@app.get("/<deed>/<name>")
def act(deed, name):
    return sites.act(session, deed, name)
