"""What does not grow with the number of sessions in PostgreSQL: plans, updates on their page, purges, partitions."""

from __future__ import annotations

import time
from typing import Any

import pytest

from roomkey.errors import ConfigurationError
from roomkey.stores.postgres import PostgresStore
from roomkey.testing import Clock
from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import admin_of, new_table, open_store
from tests.stores.records import make_key, make_record

# The table as it was before purges had a column of their own.
_SCHEMA_1 = """
CREATE TABLE {0} (
    key text COLLATE "C" PRIMARY KEY,
    data bytea NOT NULL,
    version bigint NOT NULL,
    created_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    user_id text,
    successor text,
    serve_until double precision NOT NULL,
    ip text,
    user_agent text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX {0}_expires_at ON {0} (expires_at);
CREATE INDEX {0}_user_id ON {0} (user_id) WHERE user_id IS NOT NULL AND successor IS NULL;
COMMENT ON TABLE {0} IS 'Roomkey sessions, schema 1';
"""
_COLUMNS = "key, data, version, created_at, expires_at, user_id, successor, serve_until, purge_at"


async def _fill(admin: Any, table: str, count: int, *, expired: int) -> None:
    """Put in `count` sessions of a user each, of which `expired` have expired. One expires each second."""
    await admin.execute(
        f'INSERT INTO "{table}" ({_COLUMNS}) SELECT md5(n::text), $q$x$q$, 1, 0, {time.time()} + n - {expired}, '
        f"n::text, NULL, 0, {time.time()} + n - {expired} FROM generate_series(1, {count}) AS n"
    )
    await admin.execute(f'ANALYZE "{table}"')


# --- Plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [None, 4])
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_statements_use_the_indexes(server: PostgresServer, partitions: int | None, mode: str) -> None:
    """With many sessions, no statement reads the whole table, whichever plan PostgreSQL keeps for it."""
    async with open_store(server, partitions=partitions) as store, admin_of(server) as admin:
        await _fill(admin, store._table, 20000, expired=100)
        await admin.execute(f"SET plan_cache_mode = {mode}")
        sql, now = store._sql, time.time()
        row = (b"", 2, now, now + 9, "42", None, 0.0, b"")
        statements: list[tuple[str, tuple[Any, ...]]] = [
            (sql.load, (now, "k")),
            (sql.load_many, (now, ["a", "b"])),
            (sql.create, (now, "k", *row)),
            (sql.update, (now, "k", 1, *row)),
            (sql.rotate, (now, "k", 1, *row, "n", *row)),
            (sql.touch, (now, "k", now)),
            (sql.delete, ("k",)),
            (sql.of_user, (now, "42")),
            (sql.of_user_raw, (now, "42")),
            (sql.discard, (now, "42", [b"k"])),
            (sql.scan, ("", 50)),
            (sql.purge, (now, 50, 500, False)),
        ]
        for number, (statement, args) in enumerate(statements):
            await admin.execute(f"PREPARE p{number} AS {statement}")
            given = ", ".join(_literal(arg) for arg in args)
            plan = "\n".join(row[0] for row in await admin.fetch(f"EXPLAIN EXECUTE p{number}({given})"))
            assert "Seq Scan" not in plan, plan
            assert "Index" in plan or statement == sql.create, plan
            assert "Sort  (" not in plan, plan


def _literal(value: Any) -> str:
    """Return a value as SQL has it."""
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(_literal, value))}]"
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    return f"'{value}'" if isinstance(value, str) else str(value)


# --- Updates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [None, 4])
async def test_updates_stay_on_their_page(server: PostgresServer, partitions: int | None) -> None:
    """A save or a renewal changes no indexed column, so nearly every update is heap-only."""
    async with open_store(server, partitions=partitions) as store, admin_of(server) as admin:
        keys = [make_key() for _ in range(40)]
        for key in keys:
            await store.create(key, make_record(user="42", data=b"x" * 300))
        for version in range(1, 11):
            for key in keys:
                until = time.time() + 3600 + version  # later with each
                record = make_record(user="42", data=b"y" * 300, version=version + 1, expires_at=until)
                await store.update(key, record, version=version)
                await store.touch(key, until + 0.5)
        await store.close()  # a server process tells its counts at the latest when it ends
        query = (
            "SELECT coalesce(sum(n_tup_upd), 0)::int, coalesce(sum(n_tup_hot_upd), 0)::int FROM pg_stat_user_tables "
            "WHERE relname LIKE $1"
        )
        updates = hot = 0
        while updates < 800:
            updates, hot = await admin.fetchrow(query, f"{store._table}%")
        assert updates == 800 and hot > 0.95 * updates, (updates, hot)


# --- Purges -----------------------------------------------------------------------------------------------------------


async def test_a_purge_puts_off_what_lives_longer(server: PostgresServer) -> None:
    """A session that was renewed stays when its first expiry has passed, and goes when its last one has."""
    clock = Clock()
    async with open_store(server, clock=clock) as store, admin_of(server) as admin:
        keys = [make_key() for _ in range(1200)]
        for key in keys:
            await store.create(key, make_record(expires_at=clock() + 100))
        for key in keys[:1100]:
            assert await store.touch(key, clock() + 300)
        moments = f'SELECT count(*)::int FROM "{store._table}" WHERE purge_at < expires_at'
        assert await admin.fetchval(moments) == 1100
        clock.advance(200)
        assert await store.purge(60) == 60
        assert await store.purge(60) == 40  # whatever stood before them in the index
        assert await admin.fetchval(moments) == 0
        assert await store.purge(60) == 0
        assert await store.load(keys[0]) is not None
        clock.advance(200)
        assert await store.purge(2000) == 1100


async def test_a_purge_looks_at_what_is_due_only(server: PostgresServer) -> None:
    """However many sessions are live, a purge reads those that are due, and no other row."""
    async with open_store(server) as store, admin_of(server) as admin:
        await _fill(admin, store._table, 20000, expired=100)
        plan = await admin.fetch(f"EXPLAIN (ANALYZE, FORMAT TEXT) {store._sql.purge}", time.time() - 40, 50, 500, True)
        (line,) = (row[0] for row in plan if "_purge_at" in row[0])
        read = int(line.partition("actual ")[2].partition("rows=")[2].split()[0].split(".")[0])
        assert 55 <= read <= 61, line


async def test_a_purge_looks_for_each_key_in_its_own_partition(server: PostgresServer) -> None:
    """It takes no longer with more partitions: of 60 keys, each is looked for once."""
    async with open_store(server, partitions=4) as store, admin_of(server) as admin:
        await _fill(admin, store._table, 20000, expired=100)
        plan = await admin.fetch(f"EXPLAIN (ANALYZE, FORMAT TEXT) {store._sql.purge}", time.time() - 40, 500, 500, True)
        looked_for = sum(
            int(row[0].rpartition("loops=")[2].rstrip(")"))
            for row in plan
            if "_pkey on" in row[0] and "loops=" in row[0]
        )
        assert 55 <= looked_for <= 70, plan


async def test_a_session_that_is_ended_early_is_purged_early(server: PostgresServer) -> None:
    """A record that expires earlier than before, as a tombstone does, is looked at then."""
    clock = Clock()
    async with open_store(server, clock=clock) as store:
        key, new = make_key(), make_key()
        await store.create(key, make_record(expires_at=clock() + 9000))
        tombstone = make_record(version=2, successor=new, expires_at=clock() + 60)
        await store.rotate(key, new, make_record(version=2, expires_at=clock() + 9000), tombstone, version=1)
        clock.advance(61)
        assert await store.purge(10) == 1
        assert await store.load(new) is not None
        await store.update(new, make_record(version=3, expires_at=clock() - 1), version=2)
        assert await store.purge(10) == 1


# --- A wipe -----------------------------------------------------------------------------------------------------------


async def test_a_wipe_changes_one_row(server: PostgresServer) -> None:
    """It takes no longer with more sessions. What it ended goes when it would have expired, and not before its time."""
    clock = Clock()
    async with open_store(server, clock=clock) as store, admin_of(server) as admin:
        keys = [make_key() for _ in range(100)]
        for key in keys:
            await store.create(key, make_record(user="42", expires_at=clock() + 100))
            assert await store.touch(key, clock() + 900)
        ended = await admin.execute(store._sql.wipe)
        assert ended == "INSERT 0 1"
        assert await store.of_user("42") == [] and await store.load(keys[0]) is None
        await store.create(keys[0], make_record(expires_at=clock() + 900))  # in the place of one that was ended
        clock.advance(101)
        assert await store.purge(1000) == 99
        assert await store.load(keys[0]) is not None


async def test_a_table_that_was_emptied_by_hand(server: PostgresServer) -> None:
    """A TRUNCATE ends all sessions too, and the next one begins. Without the row of the generation, none comes back."""
    async with open_store(server) as store, admin_of(server) as admin:
        old, new = make_key(), make_key()
        await store.create(old, make_record())
        await admin.execute(f"DELETE FROM \"{store._table}\" WHERE key = ''")
        assert await store.load(old) is None
        await store.create(new, make_record())
        assert await store.load(new) is not None and await store.load(old) is None
        await admin.execute(f'TRUNCATE "{store._table}"')
        assert await store.load(new) is None
        await store.create(new, make_record())
        assert await store.load(new) is not None


async def test_the_table_is_made_again_without_its_generation(server: PostgresServer) -> None:
    """`create_table` for a table that has lost the row of its generation brings back no session that a wipe ended."""
    async with open_store(server) as store, admin_of(server) as admin:
        old, new = make_key(), make_key()
        await store.create(old, make_record())
        await store.wipe()
        await admin.execute(f"DELETE FROM \"{store._table}\" WHERE key = ''")
        assert await store.create_table() is False
        assert await store.load(old) is None
        await store.create(new, make_record())
        assert await store.load(new) is not None and await store.load(old) is None


# --- Partitions -------------------------------------------------------------------------------------------------------


async def test_partitions(server: PostgresServer) -> None:
    """Sessions are spread over the partitions, each of which has the settings that a whole table has."""
    async with open_store(server, partitions=4) as store, admin_of(server) as admin:
        for _ in range(100):
            await store.create(make_key(), make_record())
        query = (
            "SELECT c.relname, c.reloptions FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = $1::regclass ORDER BY c.relname"
        )
        parts = await admin.fetch(query, store._table)
        assert [name for name, _ in parts] == [f"{store._table}_p{number}" for number in range(4)]
        for name, options in parts:
            assert options == ["fillfactor=70", "autovacuum_vacuum_scale_factor=0.05"]
            assert await admin.fetchval(f'SELECT count(*) FROM "{name}"') > 5
        await store.open()
        assert await store.create_table() is False
        assert await store.create_table(partitions=4) is False
        keys, _ = await store.scan(1000)
        assert len(keys) == 100
        await store.wipe()
        assert {await store.load(key) for key in keys} == {None}


async def test_partitions_cannot_be_changed(server: PostgresServer) -> None:
    """A table that is there keeps its partitions, and the message says how to come to others."""
    async with open_store(server, partitions=4) as parted, open_store(server) as whole:
        with pytest.raises(ConfigurationError, match="has 4 partitions, which cannot be changed: make another table"):
            await parted.create_table(partitions=8)
        with pytest.raises(ConfigurationError, match="has no partitions, which cannot be changed: make another table"):
            await whole.create_table(partitions=8)
    for wrong in (0, 1, 257, True, "4"):
        with pytest.raises(ConfigurationError, match=r"partitions: .*from 2 to 256"):
            PostgresStore.ddl(partitions=wrong)  # type: ignore[arg-type]


async def test_unlogged_partitions(server: PostgresServer) -> None:
    """The printed SQL of a partitioned table is what is run, and it is unlogged where that was asked for."""
    table = new_table()
    async with admin_of(server) as admin:
        for _ in range(2):
            await admin.execute(PostgresStore.ddl(table, unlogged=True, partitions=2))
        assert (
            await admin.fetchval("SELECT relpersistence::text FROM pg_class WHERE relname = $1", f"{table}_p1") == "u"
        )
    async with open_store(server, made=False, table=table) as store:
        await store.open()
        assert await store.create_table(unlogged=True, partitions=2) is False
        with pytest.raises(ConfigurationError, match="change each of its partitions with ALTER TABLE"):
            await store.create_table()


# --- The table of an earlier version ----------------------------------------------------------------------------------


async def test_a_table_of_schema_1(server: PostgresServer) -> None:
    """It is refused with the command that brings it up to date. Then its sessions are there, and are purged in time."""
    clock, table, live, old = Clock(), new_table(), make_key(), make_key()
    async with admin_of(server) as admin, open_store(server, made=False, table=table, clock=clock) as store:
        await admin.execute(_SCHEMA_1.format(table))
        for key, left in ((live, 100), (old, -100)):
            await admin.execute(f"INSERT INTO {table} VALUES ($1, '', 1, 0, $2, '42', NULL, 0)", key, clock() + left)
        with pytest.raises(ConfigurationError, match=f"has schema 1, .*roomkey store create --table {table}"):
            await store.open()
        with pytest.raises(ConfigurationError, match="has no partitions"):
            await store.create_table(partitions=4)
        assert await store.create_table() is False
        await store.open()
        assert await admin.fetchval("SELECT to_regclass($1)", f"{table}_expires_at") is None
        assert [key for key, _ in await store.of_user("42")] == [live]
        assert await store.purge(10) == 1
        assert await store.touch(live, clock() + 300)
        clock.advance(200)
        assert await store.purge(10) == 0
        clock.advance(200)
        assert await store.purge(10) == 1
