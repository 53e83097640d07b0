"""The command `roomkey`, end to end on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import asyncpg
import click
import pytest
from click.testing import CliRunner

from roomkey.cli.commands import roomkey
from roomkey.errors import ConfigurationError
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.loop_clock import HANGS
from tests.servers.postgres import PostgresServer
from tests.stores.records import make_key, make_record

SOURCES = Path(__file__).parents[1] / "src"
PAGE = (SOURCES.parent / "docs" / "howto-command.md").read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


def _run(*args: str, **environment: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error output."""
    result = CliRunner().invoke(roomkey, args, env={"ROOMKEY_STORE": None, **environment})
    return result.exit_code, result.stdout, result.stderr


def _is_ready(url: str, table: str = "roomkey_session") -> bool:
    async def ask() -> bool:
        store = PostgresStore(url, table=table)
        try:
            await store.open()
        except ConfigurationError:
            return False
        finally:
            await store.close()
        return True

    return asyncio.run(ask())


def test_create_makes_the_table_once(server: PostgresServer) -> None:
    """The table is made; a second time nothing happens. Both say so, and which table in which database it is."""
    assert not _is_ready(server.url)
    for did in ("created", "already there and up to date"):
        said = f"table 'roomkey_session' in '127.0.0.1:{server.port}/postgres': {did}\n"
        assert _run("store", "create", server.url) == (0, said, "")
        assert _is_ready(server.url)


def test_create_with_the_url_in_the_environment(server: PostgresServer) -> None:
    """The URL may stand in ROOMKEY_STORE, out of sight; `--table` names the table."""
    code, output, error = _run("store", "create", "--table", "second", ROOMKEY_STORE=server.url)
    assert (code, error) == (0, "") and output.startswith("table 'second' in ")
    assert _is_ready(server.url, "second")


def test_create_takes_the_table_from_the_url(server: PostgresServer) -> None:
    """A `?table=` in the URL counts, as it does for the app."""
    code, output, error = _run("store", "create", server.url_for(table="third"))
    assert (code, error) == (0, "") and output.startswith("table 'third' in ")
    assert _is_ready(server.url, "third")


def test_create_unlogged(server: PostgresServer) -> None:
    """`--unlogged` makes such a table; for one that is logged, the message has the SQL that changes it."""
    code, output, error = _run("store", "create", server.url, "--table", "fast", "--unlogged")
    assert (code, error) == (0, "") and output.endswith(": created\n")
    assert _is_ready(server.url, "fast")
    code, output, error = _run("store", "create", server.url, "--table", "fast")
    assert (code, output) == (2, "") and 'ALTER TABLE "fast" SET LOGGED' in error


def test_create_in_partitions(server: PostgresServer) -> None:
    """`--partitions` makes such a table, and `migrate` moves the sessions of another table there."""
    code, output, error = _run("store", "create", server.url, "--table", "parted", "--partitions", "4")
    assert (code, error) == (0, "") and output.endswith(": created\n")
    assert _is_ready(server.url, "parted")
    code, output, error = _run("store", "create", server.url, "--table", "parted", "--partitions", "8")
    assert (code, output) == (2, "") and "has 4 partitions, which cannot be changed" in error
    assert _run("store", "create", server.url, "--table", "whole")[0] == 0

    async def fill() -> None:
        store = PostgresStore(server.url, table="whole")
        for _ in range(30):
            await store.create(make_key(), make_record(user="42"))
        await store.close()

    async def moved() -> int:
        store = PostgresStore(server.url, table="parted")
        found = await store.of_user("42")
        await store.close()
        return len(found)

    asyncio.run(fill())
    tables = ["--from", server.url_for(table="whole"), "--to", server.url_for(table="parted")]
    code, output, error = _run("store", "migrate", *tables, "--yes")
    assert (code, json.loads(output)) == (0, {"moved": 30, "unreadable": 0}), error
    assert asyncio.run(moved()) == 30


def test_create_brings_an_older_table_up_to_date(server: PostgresServer) -> None:
    """The other commands refuse a table of schema 1 and name the command that mends it."""
    url = server.url_for(table="older")
    assert _run("store", "create", url)[0] == 0

    async def as_it_was() -> None:
        connection = await asyncpg.connect(server.url)
        await connection.execute(
            "DELETE FROM older; ALTER TABLE older DROP COLUMN about, DROP COLUMN purge_at, DROP COLUMN generation, "
            "ADD COLUMN ip text, ADD COLUMN user_agent text; "
            "COMMENT ON TABLE older IS 'Roomkey sessions, schema 1'"
        )
        await connection.close()

    asyncio.run(as_it_was())
    code, output, error = _run("store", "ping", url)
    assert (code, output) == (2, "") and "schema 1" in error and "roomkey store create --table older" in error
    code, output, error = _run("store", "create", url)
    assert (code, error) == (0, "") and output.endswith(": already there and up to date\n")
    assert _run("store", "ping", url)[0] == 0


def test_sql_is_printed() -> None:
    """`sql` prints what `create` runs, without a server."""
    code, output, error = _run("store", "sql", "postgresql://", "--table", "shop.basket", "--unlogged")
    assert (code, error) == (0, "")
    assert output == PostgresStore.ddl("shop.basket", unlogged=True)
    assert output.startswith('CREATE UNLOGGED TABLE IF NOT EXISTS "shop"."basket" (\n')
    assert _run("store", "sql", ROOMKEY_STORE="postgres://")[1] == PostgresStore.ddl()
    assert _run("store", "sql", "postgresql://", "--partitions", "4")[1] == PostgresStore.ddl(partitions=4)


@pytest.mark.parametrize(
    "args",
    [
        ("create",),  # no URL
        ("create", "mysql://user:Xsecret9@host/app"),
        ("create", "postgresql://user:Xsecret9@host/app", "--table", "no table"),
        ("sql", "postgresql://", "--table", "no table"),
        ("create", "sqlite:///sessions.sqlite3"),  # which needs no table
        ("create", "mysql+asyncmy://user:Xsecret9@host/app", "--unlogged"),
        ("create", "mysql+asyncmy://user:Xsecret9@host/app", "--partitions", "4"),
        ("create", "postgresql://user:Xsecret9@host/app", "--partitions", "1"),
        ("sql", "mysql+asyncmy://", "--partitions", "4"),
        ("drop",),
    ],
)
def test_wrong_use(args: tuple[str, ...]) -> None:
    """A wrong use is exit code 2, and the standard error output says why without a password."""
    code, output, error = _run("store", *args)
    assert (code, output) == (2, "") and "Error: " in error and "Xsec" not in error and "server:" not in error


def test_wrong_password(server: PostgresServer) -> None:
    """A wrong password is exit code 2."""
    code, output, error = _run("store", "create", server.url_for(password="Xsecret9"))
    assert (code, output) == (2, "")
    assert error.startswith("Error: ") and "password authentication failed" in error and "Xsec" not in error


def test_server_down() -> None:
    """A server that cannot be reached is exit code 1: worth another try."""
    with PostgresServer() as gone:
        url = gone.url
    code, output, error = _run("store", "create", url)
    assert (code, output) == (1, "") and error.startswith("Error: PostgreSQL cannot be reached")


def test_sqlalchemy_makes_the_table_once(tmp_path: Path) -> None:
    """`roomkey store create` makes what the store then finds, and leaves it alone the second time."""
    url = f"sqlite+aiosqlite:///{tmp_path}/app.db"

    async def is_ready() -> bool:
        store = SQLAlchemyStore(url, table="cards")
        try:
            await store.open()
        except ConfigurationError:
            return False
        finally:
            await store.close()
        return True

    assert not asyncio.run(is_ready())
    for did in ("created", "already there and up to date"):
        code, output, error = _run("store", "create", "--table", "cards", ROOMKEY_STORE=f"sqlalchemy+{url}")
        assert (code, error) == (
            0,
            "",
        ) and output == f"table 'cards' in 'sqlite+aiosqlite:///{tmp_path}/app.db': {did}\n"
        assert asyncio.run(is_ready())


async def test_sqlalchemy_prints_the_sql_of_each_database(tmp_path: Path) -> None:
    """`roomkey store sql` asks no server, and its SQL makes the table that the store wants."""
    code, output, error = _run("store", "sql", "mysql+asyncmy://user:Xsecret9@nowhere/app")
    assert (code, error) == (0, "") and output.startswith("CREATE TABLE roomkey_session") and "Xsec" not in output
    url = f"sqlite+aiosqlite:///{tmp_path}/app.db"
    with closing(sqlite3.connect(tmp_path / "app.db")) as database:
        database.executescript(_run("store", "sql", url)[1])

    store = SQLAlchemyStore(url)
    await store.open()
    await store.close()


@pytest.mark.parametrize(
    "args",
    [
        ("create",),  # no URL
        ("sql",),
        ("create", "mysql://user:Xsecret9@host/app"),  # no driver for asyncio
        ("sql", "mysql://user:Xsecret9@host/app"),
        ("create", "mysql+asyncmy://user:Xsecret9@host/app", "--table", "x" * 200),
        ("create", "no URL"),
    ],
)
def test_wrong_use_of_sqlalchemy(args: tuple[str, ...]) -> None:
    """A wrong use is exit code 2, and the standard error output says why without a password."""
    code, output, error = _run("store", *args)
    assert (code, output) == (2, "") and "Error: " in error and "Xsec" not in error
    assert "server:" not in error  # which is a name of ours


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """The message names the file."""
    code, output, error = _run("store", "create", f"sqlite+aiosqlite:///{tmp_path}/nowhere/app.db")
    assert (code, output) == (2, "")
    assert f"SQLite file '{tmp_path}/nowhere/app.db' cannot be opened: is its directory there" in error


def test_an_address_where_nobody_listens() -> None:
    """The message names host and port, and the reason."""
    for url in ("postgresql", "mysql+asyncmy"):
        code, output, error = _run("store", "create", f"{url}://user:Xsecret9@nowhere.invalid:1234/app")
        assert (code, output) == (1, "") and "Xsec" not in error
        assert "cannot be reached at nowhere.invalid:1234: the host name is not known" in error


def test_a_database_that_is_down() -> None:
    """It is exit code 1: worth another try."""
    with PostgresServer() as gone:
        url = gone.url.replace("postgresql://", "postgresql+asyncpg://")
    code, output, error = _run("store", "create", url)
    assert (code, output) == (1, "") and error.startswith("Error: ") and gone.password not in error


def test_help_names_the_price_of_unlogged() -> None:
    """Who reads about `--unlogged` reads that a crash logs everybody out; every command has a help text."""
    code, output, _ = _run("store", "create", "--help")
    assert code == 0 and "ROOMKEY_STORE" in output
    assert "everybody is logged out" in " ".join(output.split())


def _commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)


def test_every_command_says_what_it_does() -> None:
    """Each has a help text with an example, and a line in the docs."""
    for path, command in [((), roomkey), *_commands(roomkey)]:
        code, output, _ = _run(*path, "--help")
        assert code == 0
        if not isinstance(command, click.Group):
            assert f"Example: roomkey {' '.join(path)}" in " ".join(output.split())
            assert f"| `roomkey {' '.join(path)}` |" in PAGE


def test_the_version() -> None:
    """`--version` says which one is installed; a URL that is missing may stand in the environment."""
    code, output, _ = _run("--version")
    assert code == 0 and re.fullmatch(r"roomkey \d+\.\d+\.\d+\S*\n", output)
    assert "ROOMKEY_STORE" in _run("store", "create")[2]


def test_without_click() -> None:
    """One line says what to install."""
    code = "import sys; sys.modules['click'] = None; import roomkey.cli; roomkey.cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: the roomkey command needs click and rich: pip install 'roomkey[cli]'\n"


@pytest.mark.parametrize("command", [["create", "postgresql://u:secret@h/d"], ["sql", "postgresql://"]])
def test_without_the_driver(command: list[str]) -> None:
    """One line says what to install."""
    code = "import sys; sys.modules['asyncpg'] = None; import roomkey.cli; roomkey.cli.main()"
    whole = [sys.executable, "-c", code, "store", *command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=HANGS, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: store: the packages for this store are missing: pip install 'roomkey[postgres]'\n"


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("roomkey.prometheus", "prometheus_client", "prometheus"),
        ("roomkey.otel", "opentelemetry", "otel"),
        ("roomkey.ravyn", "ravyn", "ravyn"),
        ("roomkey.lilya", "lilya", "lilya"),
    ],
)
def test_modules_of_extras_name_them(module: str, missing: str, extra: str) -> None:
    """Without the package that it is for, a module says what to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=False)
    assert f"pip install 'roomkey[{extra}]'" in done.stderr.splitlines()[-1]


def test_who_may_not_make_the_table(server: PostgresServer) -> None:
    """The message says which right to grant, and not those on a table that there is not."""

    async def prepare() -> None:
        admin = await asyncpg.connect(server.url)
        await admin.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
        await admin.close()

    asyncio.run(prepare())
    code, output, error = _run("store", "create", server.url_for(user="weak", password="weak"), "--table", "weak")
    assert (code, output) == (2, "") and "GRANT CREATE" in error and "SELECT" not in error


def _process(*args: str, **options: int) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "PYTHONWARNINGS": "error"}
    environment.pop("ROOMKEY_STORE", None)
    command = [sys.executable, "-m", "roomkey", *args]
    return subprocess.run(command, env=environment, timeout=HANGS, check=False, **options)


def test_as_a_process(server: PostgresServer) -> None:
    """`python -m roomkey` does the same. It says what it did, in a terminal too, and no password."""
    piped = _process("store", "create", server.url, "--table", "run", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (piped.returncode, piped.stderr) == (0, b"") and piped.stdout.endswith(b"/postgres': created\n")
    ours, theirs = pty.openpty()
    try:
        shown = _process("store", "create", server.url, "--table", "run", stdout=theirs, stderr=subprocess.PIPE)
        said = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert "up to date" in said and "'run'" in said and server.password not in said
    failed = _process("store", "create", server.url_for(database="nowhere"), stderr=subprocess.PIPE)
    assert failed.returncode == 2 and b'database "nowhere" does not exist' in failed.stderr
    assert b"Traceback" not in failed.stderr
