"""No statement of the store in an SQLite file reads more rows with more sessions."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from roomkey.stores.sqlite import SQLiteStore, table
from tests.stores.records import make_key, make_record

# Those that have no rows to find are left out: they make, rename or drop a table.
_STATEMENTS = [
    "_LOAD",
    "_INSERT",
    "_UPDATE",
    "_REFILE",
    "_ROTATE",
    "_TOUCH",
    "_DELETE",
    "_PURGE",
    "_PUT_OFF",
    "_SESSIONS_DUE",
    "_SCAN",
    "_OF_USER",
    "_PLACES",
    "_AT_PLACE",
    "_END_PLACE",
    "_PLACE_OF",
]


@pytest.mark.parametrize("name", _STATEMENTS)
async def test_statements_use_the_indexes(name: str, tmp_path: Path) -> None:
    """Each finds its rows by an index or by their place, and sorts none of them."""
    store = SQLiteStore(tmp_path / "s.db")
    await store.create(make_key(), make_record(user="42"))
    await store.close()
    connection = sqlite3.connect(tmp_path / "s.db")
    statement = getattr(table, name)
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", (0,) * statement.count("?")).fetchall()
    connection.close()
    plan = "\n".join(row[3] for row in rows)
    assert "SCAN session" not in plan and "TEMP B-TREE" not in plan, plan
    assert "SEARCH session" in plan or name == "_INSERT", plan


def test_every_statement_on_the_table_is_looked_at() -> None:
    """A new one is not forgotten."""
    verbs = ("SELECT", "INSERT", "UPDATE", "DELETE")
    found = {
        name
        for name, text in vars(table).items()
        if isinstance(text, str) and text.strip().startswith(verbs) and "session" in text
    }
    assert found - {"_DUE", "_INDEX"} == set(_STATEMENTS)
