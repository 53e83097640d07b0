"""`roomkey sessions` on the sessions of a real app, kept in a file and on a Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from roomkey import Request, SessionManager
from roomkey.cli.commands import roomkey
from tests.loop_clock import HANGS
from tests.servers.redis import RedisServer

SOURCES = Path(__file__).parents[1] / "src"
KEY = "k" * 32


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/sessions.sqlite3"
    else:
        with RedisServer() as server:
            yield f"redis://127.0.0.1:{server.port}/0"


def _run(*args: str, **environment: str | None) -> tuple[int, Any, str]:
    """Return exit code, what was printed (JSON is read), and the standard error output."""
    empty = {"ROOMKEY_STORE": None, "ROOMKEY_SECRET_KEY": None}
    done = CliRunner().invoke(roomkey, ["sessions", *args], env={**empty, **environment})
    try:
        return done.exit_code, json.loads(done.stdout), done.stderr
    except ValueError:
        return done.exit_code, done.stdout, done.stderr


def _log_in(url: str, *users: object) -> list[str]:
    """Begin a session for each, None is a visitor's. Return the handles."""

    async def begun() -> list[str]:
        handles = []
        async with SessionManager(secret_key=KEY, store=url) as manager:
            for user in users:
                session = await manager.load()
                session["page"] = 1
                if user is not None:
                    session["user_id"] = user
                await manager.commit(session)
                handles.append(session.handle)
        return handles

    return asyncio.run(begun())


def _live(url: str, user: object) -> int:
    async def counted() -> int:
        async with SessionManager(secret_key=KEY, store=url) as manager:
            return len(await manager.sessions.of(user))  # type: ignore[arg-type]

    return asyncio.run(counted())


def test_list_and_count(url: str) -> None:
    """A user's sessions are listed, or everybody's. They are counted, and so are the users who have one."""
    handles = _log_in(url, 7, 7, "ann", None)
    code, rows, error = _run("list", "--store", url, "--user", "7")
    assert (code, error) == (0, "") and {row["handle"] for row in rows} == set(handles[:2])
    assert all(row["user"] == "7" and row["expires_at"] > row["created_at"] for row in rows)
    everybody = _run("list", ROOMKEY_STORE=url)[1]
    assert {row["handle"]: row["user"] for row in everybody} == dict(zip(handles, ["7", "7", "ann", None], strict=True))
    assert len(_run("list", "--limit", "3", ROOMKEY_STORE=url)[1]) == 3
    assert _run("count", "--store", url) == (0, {"sessions": 4, "logged_in": 3, "users": 2}, "")
    assert _run("count", "--store", url, "--user", "7") == (0, {"sessions": 2}, "")


def test_show(url: str) -> None:
    """A session is found by its handle. One that is not there is exit code 1."""
    (handle,) = _log_in(url, 7)
    code, facts, _ = _run("show", "--store", url, handle)
    assert code == 0 and facts["user"] == "7" and facts["handle"] == handle
    code, output, error = _run("show", "--store", url, "0" * 64)
    assert (code, output) == (1, "") and "no such session" in error


def test_revoke(url: str) -> None:
    """One session ends by its handle, a user's by their ID, and everybody's by `end-all`."""
    handles = _log_in(url, 7, 7, "ann", None)
    assert _run("revoke", "--store", url, handles[0], "--yes") == (0, {"ended": 1}, "")
    assert _run("revoke", "--store", url, handles[0], "--yes")[0] == 1
    assert _live(url, 7) == 1
    assert _run("revoke", "--store", url, "--user", "7", "--yes") == (0, {"ended": 1}, "")
    assert _live(url, 7) == 0 and _live(url, "ann") == 1
    assert _run("end-all", "--store", url, "--yes") == (0, {"ended": "all"}, "")
    assert _run("count", "--store", url)[1]["sessions"] == 0


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_cannot_be_undone_asks_first(url: str) -> None:
    """Where nobody can be asked, nothing ends, and the message names `--yes`."""
    (handle,) = _log_in(url, 7)
    for args in (["revoke", handle], ["revoke", "--user", "7"], ["end-all"]):
        code, output, error = _run(*args, "--store", url)
        assert (code, output) == (2, "") and "--yes" in error
    assert _live(url, 7) == 1


def test_which_sessions() -> None:
    """Where nothing says which sessions are meant, the message says what to give."""
    for args in (["list"], ["count"], ["show", "0" * 64], ["end-all", "--yes"]):
        code, output, error = _run(*args)
        assert (code, output) == (2, "") and "--app" in error and "ROOMKEY_STORE" in error
    assert "the process of the app" in _run("count", "--store", "memory://")[2]
    assert "give one of them" in _run("count", "--store", "memory://", "--app", "x:y")[2]
    assert "Give a handle, or --user" in _run("revoke", "--store", "memory://")[2]


APPS = {
    "fastapi": (
        "app = FastAPI()\napp.add_middleware(SessionMiddleware, config=config)",
        "from fastapi import FastAPI\nfrom roomkey import SessionMiddleware",
    ),
    "wrapped": (
        "app = SessionMiddleware(Starlette(), config=config)",
        "from starlette.applications import Starlette\nfrom roomkey import SessionMiddleware",
    ),
    "ravyn": (
        "app = Ravyn(routes=[], session_config=RavynConfig(secret_key='k' * 32, store=URL, user_key='member'))",
        "from ravyn import Ravyn\nfrom roomkey.ravyn import SessionConfig as RavynConfig",
    ),
    "flask": (
        "app = Flask('shop')\napp.secret_key = 'k' * 32\nRoomkey(app, store=URL, user_key='member')",
        "from flask import Flask\nfrom roomkey.flask import Roomkey",
    ),
    "factory": (
        "def app(debug=False, **settings):\n    made = FastAPI()\n"
        "    made.add_middleware(SessionMiddleware, config=config)\n    return made",
        "from fastapi import FastAPI\nfrom roomkey import SessionMiddleware",
    ),
}


@pytest.mark.parametrize("framework", APPS)
def test_the_sessions_of_an_app(framework: str, tmp_path: Path) -> None:
    """`--app` finds the configuration in an app of any framework: its store, and its own options too."""
    code, imports = APPS[framework]
    url = f"sqlite:///{tmp_path}/sessions.sqlite3"
    config = "config = SessionConfig(secret_key='k' * 32, store=URL, user_key='member')"
    text = f"from roomkey import SessionConfig\n{imports}\nURL = {url!r}\n{config}\n{code}\n"
    (tmp_path / "shop.py").write_text(text)

    async def log_in() -> None:
        async with SessionManager(secret_key=KEY, store=url, user_key="member") as manager:
            session = await manager.load()
            session["member"] = "ann"
            await manager.commit(session)

    asyncio.run(log_in())
    done = _process("sessions", "list", "--app", "shop:app", "--user", "ann", cwd=tmp_path, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert [row["user"] for row in json.loads(done.stdout)] == ["ann"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shop", "takes module:app"),
        ("nowhere:app", "no module nowhere"),
        ("shop:nothing", "shop has no nothing"),
        ("shop:plain", "no Roomkey sessions"),
        ("broken:app", "ZeroDivisionError"),
        ("shop:fails", "ZeroDivisionError"),
        ("shop:wrong", "does not start: max_agee"),
    ],
)
def test_an_app_that_is_none(name: str, says: str, tmp_path: Path) -> None:
    """The message says what is wrong with it, without a traceback."""
    (tmp_path / "shop.py").write_text(
        "from roomkey import SessionMiddleware\nfrom starlette.applications import Starlette\n"
        "async def plain(scope, receive, send):\n    raise ValueError(scope['type'])\n"
        "def fails():\n    1 / 0\n"
        "wrong = Starlette()\nwrong.add_middleware(SessionMiddleware, secret_key='k' * 32, max_agee=5)\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    done = _process("sessions", "count", "--app", name, cwd=tmp_path, stderr=subprocess.PIPE)
    assert done.returncode == 2 and says in done.stderr.decode() and "Traceback" not in done.stderr.decode()


def test_a_table_in_a_terminal(tmp_path: Path) -> None:
    """In a terminal there is a table, with the whole handle. JSON comes where it is asked for."""
    url = f"sqlite:///{tmp_path}/sessions.sqlite3"
    (handle,) = _log_in(url, "[red]ann")  # no markup
    for args, expected in (([], "User"), (["--json"], '"user"')):
        code, said = _in_terminal("sessions", "list", "--store", url, *args)
        assert code == 0 and expected in said and handle in said and "[red]ann" in said


def test_what_was_done_in_a_terminal(tmp_path: Path) -> None:
    """In a terminal a line says how many sessions ended. JSON comes where it is asked for."""
    url = f"sqlite:///{tmp_path}/sessions.sqlite3"
    _log_in(url, 7, 7)
    assert _in_terminal("sessions", "revoke", "--user", "7", "--yes", "--store", url) == (0, "ended: 2\r\n")
    code, said = _in_terminal("sessions", "end-all", "--yes", "--json", "--store", url)
    assert code == 0 and json.loads(said) == {"ended": "all"}


# What a client calls itself, and what the table and JSON show of it.
_CLIENTS = [
    ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J", r"\u001b]0;title\u0007\u001b[2J"),  # terminals obey
    ("\x9b2J", r"\x9b2J", r"\u009b2J"),  # the same in one character
    (r"\[/red]x", r"\[/red]x", r"\\[/red]x"),  # markup of rich, behind an escape
    ("[link=https://evil.example]x[/link]", "[link=https://evil.example]x[/link]", "[link=https://evil.example]x[/"),
    ("caf\xe9", "caf\xe9", "caf\xe9"),
]


@pytest.mark.parametrize(("client", "in_table", "in_json"), _CLIENTS)
def test_what_a_client_calls_itself_is_only_shown(tmp_path: Path, client: str, in_table: str, in_json: str) -> None:
    """No client can break the list, hide in it, or have the terminal of an operator do something."""
    url = f"sqlite:///{tmp_path}/sessions.sqlite3"

    async def log_in() -> None:
        async with SessionManager(secret_key=KEY, store=url, record_client=True) as manager:
            session = await manager.load(Request(headers=[("user-agent", client)], client=("192.0.2.1", 1)))
            session["user_id"] = 7
            await manager.commit(session)

    asyncio.run(log_in())
    for args, expected in ((["list"], in_table), (["list", "--json"], in_json)):
        code, said = _in_terminal("sessions", *args, "--store", url)
        assert code == 0 and expected in said
        assert "\x07" not in said and "\x1b]" not in said and "\x1b[2J" not in said and "\x9b" not in said
    assert (
        json.loads(_process("sessions", "list", "--store", url, stdout=subprocess.PIPE).stdout)[0]["user_agent"]
        == client
    )


@pytest.mark.parametrize(("name", "in_table", "in_json"), _CLIENTS)
def test_a_users_name_for_a_session_is_only_shown(tmp_path: Path, name: str, in_table: str, in_json: str) -> None:
    """The list shows the name that a user gave a session, whatever it holds, and so does `show`."""
    url = f"sqlite:///{tmp_path}/sessions.sqlite3"
    (handle,) = _log_in(url, 7)

    async def give_name() -> None:
        async with SessionManager(secret_key=KEY, store=url) as manager:
            assert await manager.sessions.label(handle, name)

    asyncio.run(give_name())
    for args, expected in ((["list"], in_table), (["show", handle], in_table), (["list", "--json"], in_json)):
        code, said = _in_terminal("sessions", *args, "--store", url)
        assert code == 0 and expected in said
        assert "\x07" not in said and "\x1b]" not in said and "\x1b[2J" not in said and "\x9b" not in said
    assert _run("show", "--store", url, handle)[1]["label"] == name


def _in_terminal(*args: str) -> tuple[int, str]:
    """Return the exit code, and what the command writes into a terminal."""
    ours, theirs = pty.openpty()
    try:
        done = _process(*args, stdout=theirs, environment={"COLUMNS": "200"})
        os.set_blocking(ours, False)  # a command that fails writes nothing
        with contextlib.suppress(BlockingIOError):
            return done.returncode, os.read(ours, 10_000).decode()
        return done.returncode, ""
    finally:
        os.close(ours)
        os.close(theirs)


def _process(
    *args: str, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    given = {**os.environ, "PYTHONPATH": str(SOURCES), **(environment or {})}
    given.pop("ROOMKEY_STORE", None)
    command = [sys.executable, "-m", "roomkey", *args]
    return subprocess.run(command, env=given, timeout=HANGS, check=False, **options)
