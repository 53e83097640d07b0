"""The story's site on FastAPI."""

from fastapi import FastAPI

from roomkey.fastapi import CurrentSession, SessionConfig, SessionMiddleware
from tests import sites

app = FastAPI()
app.add_middleware(SessionMiddleware, config=SessionConfig.from_env())


@app.get("/slow/{name}")
async def slow(name: str, session: CurrentSession):
    user = session["user_id"]
    await sites.reach(name)
    session["late"] = user
    return sites.seen(session)


@app.get("/{deed}/{name}")
def act(deed: str, name: str, session: CurrentSession):  # in a thread
    return sites.act(session, deed, name)
