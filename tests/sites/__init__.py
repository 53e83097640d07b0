"""The sites of the story: one a framework, as small as it can be. What their pages do is here, and is the same for all.

`tests/story.py` says what it asks of them. A site has two routes: `/{deed}/{name}` and `/slow/{name}`. Its options are
in the environment, as `SessionConfig.from_env` reads them, and its gates are files in the folder `STORY_FOLDER`.
"""

import asyncio
import os
import time
from pathlib import Path

__all__ = ["act", "reach", "reach_blocking", "seen"]


def act(session, deed, name):
    """Do one thing with the session, and return the page."""
    if deed == "write":
        session[name] = 1
    elif deed == "add":
        session.change(name, lambda number: number + 1, default=0)
    elif deed == "login":
        session["user_id"] = name
    elif deed == "logout":
        session.clear()
    elif deed == "begun":
        return {"begun": _begun(name).exists()}
    elif deed == "open":
        _opened(name).touch()
        return {}
    return seen(session)


def seen(session):
    """Return the page that shows the session."""
    return {"pid": os.getpid(), "session": dict(session.items())}


async def reach(name):
    """Say that the gate was reached, and wait until it is opened."""
    _begun(name).touch()
    while not _opened(name).exists():
        await asyncio.sleep(0.005)


def reach_blocking(name):
    """Do the same in a thread."""
    _begun(name).touch()
    while not _opened(name).exists():
        time.sleep(0.005)


def _begun(name):
    return Path(os.environ["STORY_FOLDER"], f"{name}.begun")


def _opened(name):
    return Path(os.environ["STORY_FOLDER"], f"{name}.opened")
