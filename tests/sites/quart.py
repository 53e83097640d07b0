"""The story's site on Quart."""

import json
import os

from quart import Quart

from roomkey.quart import Roomkey, session
from tests import sites

app = Quart(__name__)
app.secret_key = os.environ["ROOMKEY_SECRET_KEY"]
Roomkey(
    app,
    store=os.environ["ROOMKEY_STORE"],
    store_timeout=float(os.environ["ROOMKEY_STORE_TIMEOUT"]),
    clear_site_data=json.loads(os.environ["ROOMKEY_CLEAR_SITE_DATA"]),
)


@app.get("/slow/<name>")
async def slow(name):
    user = session["user_id"]
    await sites.reach(name)
    session["late"] = user
    return sites.seen(session)


@app.get("/<deed>/<name>")
async def act(deed, name):
    return sites.act(session, deed, name)
