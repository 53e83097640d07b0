"""`roomkey store` and `roomkey keygen`, on real stores."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from roomkey import SessionManager
from roomkey.cli.commands import roomkey
from roomkey.stores.base import Record
from roomkey.stores.sqlite import SQLiteStore
from tests.servers.redis import RedisServer

KEY = "k" * 32


def _run(*args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(roomkey, args, env={"ROOMKEY_STORE": None})
    return done.exit_code, done.stdout, done.stderr


def test_keygen() -> None:
    """Each key is another one, of 32 bytes, and one that the configuration takes without a warning."""
    keys = {_run("keygen")[1] for _ in range(20)}
    assert len(keys) == 20 and all(re.fullmatch(r"[\w-]{43}\n", key) for key in keys)
    SessionManager(secret_key=keys.pop().strip(), store="memory://")
    assert re.fullmatch(r"ROOMKEY_SECRET_KEY=[\w-]{43}\n", _run("keygen", "--env")[1])


def test_ping(tmp_path: Path) -> None:
    """A store that answers says how fast. One that does not is exit code 1, and no password is shown."""
    asyncio.run(SQLiteStore(tmp_path / "a.sqlite3").open())
    with RedisServer() as server:
        for url in (f"redis://127.0.0.1:{server.port}/0", f"sqlite:///{tmp_path}/a.sqlite3", "memory://"):
            code, output, error = _run("store", "ping", url)
            facts = json.loads(output)
            assert (code, error) == (0, "") and 0 < facts["fastest_ms"] <= facts["median_ms"]
    code, output, error = _run("store", "ping", f"redis://user:Xsecret9@127.0.0.1:{server.port}/0")
    assert (code, output) == (1, "") and "cannot be reached" in error and "Xsec" not in error
    assert _run("store", "ping", "cookie://")[0] == 2
    assert _run("store", "ping", "nothing")[0] == 2
    assert "ROOMKEY_STORE" in _run("store", "ping")[2]


def test_store_option() -> None:
    """Each command that takes a URL takes `--store URL` as well. Both at once are exit code 2."""
    assert json.loads(_run("store", "ping", "--store", "memory://")[1])["loads"] > 0
    assert _run("store", "purge", "--store", "memory://")[0] == 0
    assert _run("store", "sql", "--store", "postgresql://") == _run("store", "sql", "postgresql://")
    assert "needs no table" in _run("store", "create", "--store", "memory://")[2]
    assert _run("store", "bench", "--store", "memory://", "--sessions", "2")[0] == 0
    for command in ("ping", "purge", "sql", "create", "bench"):
        code, output, error = _run("store", command, "memory://", "--store", "memory://")
        assert (code, output) == (2, "") and "give one of them" in error, command


@pytest.mark.parametrize("scheme", ["sqlite", "sqlalchemy+sqlite+aiosqlite"])
def test_a_file_that_does_not_exist(scheme: str, tmp_path: Path) -> None:
    """A command that looks into a file which does not exist is exit code 2. It names the file, and makes none."""
    url = f"{scheme}:///{tmp_path}/nope.sqlite3"
    for args in (
        ["sessions", "count", "--store", url],
        ["sessions", "list", "--store", url],
        ["sessions", "end-all", "--yes", "--store", url],
        ["store", "ping", url],
        ["store", "purge", "--store", url],
        ["store", "migrate", "--from", url, "--to", f"sqlite:///{tmp_path}/new.sqlite3", "--yes"],
    ):
        code, output, error = _run(*args)
        assert (code, output) == (2, "") and f"{tmp_path}/nope.sqlite3 does not exist" in error, args
    assert list(tmp_path.iterdir()) == []


def test_purge(tmp_path: Path) -> None:
    """All expired records go, and the others stay."""
    url = f"sqlite:///{tmp_path}/a.sqlite3"

    async def fill() -> None:
        store = SQLiteStore(tmp_path / "a.sqlite3")
        now = time.time()
        for number in range(1203):
            lives = 600 if number < 3 else -600
            await store.create(f"{number:064x}", Record(b"data", 1, now - 1000, now + lives))
        await store.close()

    asyncio.run(fill())
    for removed in (1200, 0):
        code, output, error = _run("store", "purge", url)
        assert (code, json.loads(output), error) == (0, {"removed": removed, "by_itself": False}, "")
    with RedisServer() as server:
        output = _run("store", "purge", f"redis://127.0.0.1:{server.port}/0")[1]
        assert json.loads(output) == {"removed": 0, "by_itself": True}


def test_migrate(tmp_path: Path) -> None:
    """Every session moves, with its card, and nothing is left in the old store. To repeat it does no harm."""
    old = f"sqlite:///{tmp_path}/a.sqlite3"

    async def log_in(users: int) -> list[str]:
        cards = []
        async with SessionManager(secret_key=KEY, store=old) as manager:
            for user in range(1, users + 1):
                session = await manager.load()
                session["user_id"] = user
                headers = await manager.commit(session, headers=[("content-type", "text/plain")])
                cards.append(dict(headers)["set-cookie"].partition(";")[0])
        return cards

    async def read(url: str, cards: list[str]) -> list[object]:
        async with SessionManager(secret_key=KEY, store=url) as manager:
            return [(await manager.load(card)).get("user_id") for card in cards]

    cards = asyncio.run(log_in(620))
    with RedisServer() as server:
        new = f"redis://127.0.0.1:{server.port}/0"
        assert "--yes" in _run("store", "migrate", "--from", old, "--to", new)[2]
        said = '{{\n  "moved": {},\n  "unreadable": 0\n}}\n'
        assert _run("store", "migrate", "--from", old, "--to", new, "--yes") == (0, said.format(620), "")
        assert asyncio.run(read(new, cards)) == list(range(1, 621))
        assert _run("store", "migrate", "--from", old, "--to", new, "--yes") == (0, said.format(0), "")
        assert asyncio.run(read(old, cards[:5])) == [None] * 5


def test_bench(tmp_path: Path) -> None:
    """Each operation is measured, and nothing stays in the store."""
    url = f"sqlite:///{tmp_path}/a.sqlite3"
    code, output, _ = _run("store", "bench", url, "--sessions", "20", "--at-once", "4")
    rows = json.loads(output)
    assert code == 0 and [row["operation"] for row in rows] == ["create", "load", "update", "delete"]
    assert all(row["alone"] > 0 and row["at_once"] > 0 for row in rows)

    async def left() -> list[str]:
        store = SQLiteStore(tmp_path / "a.sqlite3")
        keys, _ = await store.scan(100)
        await store.close()
        return keys

    assert asyncio.run(left()) == []
