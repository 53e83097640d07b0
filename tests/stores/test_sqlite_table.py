"""The table in an SQLite file: which statement a write is, what a purge looks at, and how both use the indexes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from roomkey.stores.base import Conflict, Record
from roomkey.stores.sqlite import table

KEY = "0f" * 32
NOW = 1_000_000.0


def _record(**fields: Any) -> Record:
    return replace(Record(data=b"data", version=1, created_at=NOW, expires_at=NOW + 100), **fields)


def _key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in table.CREATE:
        connection.execute(statement)
    yield connection
    connection.close()


def _purge_at(connection: sqlite3.Connection, key: str) -> float:
    (moment,) = connection.execute("SELECT purge_at FROM session WHERE key = ?", (key,)).fetchone()
    return float(moment)


@pytest.mark.parametrize(
    ("change", "purge_at"),
    [
        ({"expires_at": NOW + 200}, NOW + 100),
        ({"expires_at": NOW + 100}, NOW + 100),
        ({"expires_at": NOW + 200, "about": b"x", "serve_until": 3.0, "created_at": 1.0}, NOW + 100),
        ({"expires_at": NOW + 50}, NOW + 50),
        ({"expires_at": NOW - 50}, NOW - 50),
        ({"expires_at": NOW + 200, "user": "ben"}, NOW + 200),
        ({"expires_at": NOW + 200, "user": None}, NOW + 200),
        ({"expires_at": NOW + 200, "successor": _key(1)}, NOW + 200),
    ],
)
def test_update_keeps_every_field(connection: sqlite3.Connection, change: dict[str, Any], purge_at: float) -> None:
    """Every field is stored, whether an index has to change or not; a purge never looks later than the expiry."""
    table.create(connection, NOW, KEY, _record(user="ann"))
    record = _record(version=2, data=b"new", **{"user": "ann", **change})
    table.update(connection, NOW, KEY, record, 1)
    assert table.load(connection, NOW - 100, KEY) == record
    assert _purge_at(connection, KEY) == purge_at


@pytest.mark.parametrize("user", ["ann", "ben", None])
def test_update_of_a_user_is_seen_by_their_list(connection: sqlite3.Connection, user: str | None) -> None:
    """A user's list follows the record."""
    table.create(connection, NOW, KEY, _record(user="ann"))
    table.update(connection, NOW, KEY, _record(version=2, user=user), 1)
    found = {name: [key for key, _ in table.of_user(connection, NOW, name)] for name in ("ann", "ben")}
    assert found == {name: [KEY] if name == user else [] for name in ("ann", "ben")}


@pytest.mark.parametrize("expires_at", [NOW + 200, NOW + 50])
def test_update_conflicts(connection: sqlite3.Connection, expires_at: float) -> None:
    """Another version, a tombstone, an expired record and none are conflicts, and nothing changes."""
    tombstone, expired = _record(successor=KEY), _record(expires_at=NOW)
    for number, record in enumerate([_record(version=2), tombstone, expired]):
        table.create(connection, NOW, _key(number), record)
        with pytest.raises(Conflict):
            table.update(connection, NOW, _key(number), _record(version=2, expires_at=expires_at), 1)
        assert table.load(connection, 0, _key(number)) == record
    with pytest.raises(Conflict):
        table.update(connection, NOW, _key(9), _record(version=2, expires_at=expires_at), 1)


def test_rotate_changes_both_or_none(connection: sqlite3.Connection) -> None:
    """A rotation puts both records, and one that conflicts puts neither."""
    old, new, tombstone = _record(user="ann"), _record(version=2, user="ben"), _record(version=2, successor=_key(2))
    table.create(connection, NOW, _key(1), old)
    table.create(connection, NOW, _key(3), _record())
    for key, new_key, version in ((_key(1), _key(2), 7), (_key(9), _key(2), 1), (_key(1), _key(3), 1)):
        with pytest.raises(Conflict):
            table.rotate(connection, NOW, key, new_key, new, tombstone, version)
        assert table.load(connection, NOW, _key(1)) == old
        assert table.load(connection, NOW, _key(2)) is None
    table.rotate(connection, NOW, _key(1), _key(2), new, tombstone, 1)
    assert table.load(connection, NOW, _key(1)) == tombstone
    assert table.load(connection, NOW, _key(2)) == new
    with pytest.raises(Conflict):  # from a tombstone
        table.rotate(connection, NOW, _key(1), _key(5), new, tombstone, 2)


def test_rotate_takes_the_place_of_an_expired_record(connection: sqlite3.Connection) -> None:
    """An expired record under the new key is absent."""
    table.create(connection, NOW, _key(1), _record())
    table.create(connection, NOW, _key(2), _record(expires_at=NOW, user="ann", data=b"old"))
    new = _record(version=2)
    table.rotate(connection, NOW, _key(1), _key(2), new, _record(version=2, successor=_key(2)), 1)
    assert table.load(connection, NOW, _key(2)) == new


def test_purge_takes_what_expired_and_puts_the_rest_off(connection: sqlite3.Connection) -> None:
    """Sessions that were used again stay, however many they are, and are not looked at again before they expire."""
    for number in range(1000):
        table.create(connection, NOW, _key(number), _record())
    for number in range(0, 1000, 2):
        table.update(connection, NOW, _key(number), _record(version=2, expires_at=NOW + 500), 1)
    gone, steps, more = 0, 0, True
    while more:
        count, more = table.purge(connection, NOW + 100, 500)
        gone, steps = gone + count, steps + 1
    assert gone == 500 and steps <= 4
    assert {_purge_at(connection, _key(number)) for number in range(0, 1000, 2)} == {NOW + 500}
    assert table.purge(connection, NOW + 499, 500) == (0, False)
    assert table.purge(connection, NOW + 500, 500)[0] == 500


def test_purge_removes_no_more_than_its_limit(connection: sqlite3.Connection) -> None:
    """The limit holds in each step, and what is over it comes with the next."""
    for number in range(7):
        table.create(connection, NOW, _key(number), _record(expires_at=NOW + number))
    assert [table.purge(connection, NOW + 4, 2) for _ in range(4)] == [(2, False), (2, False), (1, False), (0, False)]


@pytest.mark.parametrize("statement", ["_DUE", "_OF_USER", "_LOAD"])
def test_no_statement_reads_the_whole_table(connection: sqlite3.Connection, statement: str) -> None:
    """What is asked for while requests wait uses an index and sorts nothing."""
    sql: str = getattr(table, statement)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", (1, 2)).fetchall()
    assert plan and all("USING INDEX" in row[3] for row in plan), plan
