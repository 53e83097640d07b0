"""The table, laid out so that every database agrees on what it holds, and the statements on it.

- Users are found by the SHA-256 of their name. MySQL and SQL Server take "Ann", "ann" and "ann " for the same text.
- Oracle takes an empty text for NULL. So a text of nothing but spaces gets one more, and empty data may be NULL.
"""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql

from roomkey.errors import ConfigurationError
from roomkey.stores.base import Record, Unreadable
from roomkey.stores.rows import are_of_their_types
from roomkey.stores.text import DAMAGED, DEFAULT_TABLE, printable, split_name

__all__ = [
    "PREFIX",
    "Statements",
    "examine",
    "hash_user",
    "indexes_of",
    "missing_table",
    "session_table",
    "to_record",
    "to_row",
]

PREFIX = "sqlalchemy+"  # of a store's URL, before SQLAlchemy's own


def session_table(metadata: sa.MetaData, name: str = DEFAULT_TABLE) -> sa.Table:
    """Add the table of sessions to your own `MetaData`, so that your migrations make it.

    Args:
        metadata: where to add it.
        name: `table` or `schema.table`; give the store the same.

    Raises:
        ConfigurationError: that is no name.

    Example:
        >>> from sqlalchemy import MetaData
        >>> session_table(MetaData()).name
        'roomkey_session'
    """
    schema, table = split_name(name)
    return sa.Table(
        table,
        metadata,
        sa.Column("key", _digest(), primary_key=True),
        sa.Column("data", _bytes()),  # NULL: none
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.Column("user_id", _text()),  # to be read; `user_hash` is what is compared
        sa.Column("user_hash", _digest()),  # SHA-256; NULL: nobody's session
        sa.Column("successor", _digest()),
        sa.Column("serve_until", _moment(), nullable=False),
        sa.Column("about", _bytes()),  # NULL: nothing
        sa.Index(f"{table}_expires_at", "expires_at"),
        sa.Index(f"{table}_user_hash", "user_hash"),
        schema=schema,
        # Other engines of theirs know no transactions.
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )


def _digest() -> sa.types.TypeEngine[str]:
    """64 hexadecimal digits, compared byte by byte."""
    ascii_bin = mysql.CHAR(64, charset="ascii", collation="ascii_bin")
    return (
        sa.String(64)
        .with_variant(ascii_bin, "mysql", "mariadb")
        .with_variant(postgresql.VARCHAR(64, collation="C"), "postgresql")
        # N: what the driver sends is that too, and a conversion would keep the index from being used.
        .with_variant(mssql.NVARCHAR(64, collation="Latin1_General_BIN2"), "mssql")
    )


def _bytes() -> sa.types.TypeEngine[bytes]:
    """Up to 16 MB: MySQL's BLOB ends at 64 KB."""
    return (
        sa.LargeBinary()
        .with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
        .with_variant(mssql.VARBINARY("max"), "mssql")  # type: ignore[no-untyped-call]
    )


def _moment() -> sa.types.TypeEngine[float]:
    """Unix seconds, exact to less than a microsecond."""
    return sa.Double().with_variant(oracle.BINARY_DOUBLE(), "oracle")


def _text() -> sa.types.TypeEngine[str]:
    """Any text, whatever the database's own character set."""
    utf8 = mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin")
    return sa.UnicodeText().with_variant(utf8, "mysql", "mariadb").with_variant(mssql.NVARCHAR(), "mssql")


class Statements:
    """What is asked of one table. Parameters that are no columns: `now`, `at` (a key), `was` (a version)."""

    def __init__(self, table: sa.Table) -> None:
        columns = table.c
        self.table = table
        at = columns.key == sa.bindparam("at")
        alive = columns.expires_at > sa.bindparam("now")
        live = sa.and_(columns.successor.is_(None), alive)
        until = sa.bindparam("until", type_=columns.expires_at.type)
        fields = [columns[name] for name in _FIELDS]
        self.load: Any = sa.select(*fields).where(at, alive)
        self.is_taken: sa.Select[Any] = sa.select(columns.version).where(at, alive)
        self.insert: sa.Insert = sa.insert(table)
        self.replace: sa.Update = sa.update(table).where(at, columns.expires_at <= sa.bindparam("now"))
        self.update: sa.Update = sa.update(table).where(at, columns.version == sa.bindparam("was"), live)
        later = sa.case((columns.expires_at < until, until), else_=columns.expires_at)
        self.touch: sa.Update = sa.update(table).where(at, live).values(expires_at=later)
        self.lives_until: sa.Select[Any] = sa.select(columns.version).where(at, live, columns.expires_at >= until)
        self.delete: sa.Delete = sa.delete(table).where(at)
        self.expired: sa.Select[Any] = sa.select(columns.key).where(columns.expires_at <= sa.bindparam("now"))
        is_session = sa.and_(columns.successor.is_(None), columns.data > b"\0\xff")
        told = sa.case((is_session, 1), else_=0)
        self.expired_and_whose: sa.Select[Any] = sa.select(columns.key, columns.user_id, told).where(
            columns.expires_at <= sa.bindparam("now")
        )
        some = columns.key.in_(sa.bindparam("keys", expanding=True))
        self.purge: sa.Delete = sa.delete(table).where(some, columns.expires_at <= sa.bindparam("now"))
        self.states: sa.Select[Any] = sa.select(columns.key, columns.version, columns.successor).where(some, alive)
        self.scan: sa.Select[Any] = (
            sa.select(columns.key).where(columns.key > sa.bindparam("after")).order_by(columns.key)
        )
        self.of_user: Any = sa.select(columns.key, *fields).where(columns.user_hash == sa.bindparam("whose"), live)

    def wipe(self, dialect: sa.Dialect) -> list[str]:
        """Return the statements that end every session, the last one of them doing it."""
        name = dialect.identifier_preparer.format_table(self.table)
        if dialect.name not in _TRUNCATES:
            return [f"DELETE FROM {name}"]
        before = _TRUNCATES[dialect.name]
        return [*([before] if before else []), f"TRUNCATE TABLE {name}"]


# TRUNCATE waits for everybody who uses the table, and meanwhile all others wait for it: let it wait a second at most.
_TRUNCATES = {
    "mysql": "SET SESSION lock_wait_timeout = 1",
    "mariadb": "SET SESSION lock_wait_timeout = 1",
    "postgresql": "SET lock_timeout = '1s'",
    "mssql": "SET LOCK_TIMEOUT 1000",
    "oracle": None,  # it does not wait
}
_FIELDS = (
    "data",
    "version",
    "created_at",
    "expires_at",
    "user_id",
    "user_hash",
    "successor",
    "serve_until",
    "about",
)


def to_row(record: Record) -> dict[str, Any]:
    user = record.user
    if user is not None and printable(user) != user:
        raise ConfigurationError("user_key: the user's name has a NUL or half a character, which databases cannot keep")
    return {
        "data": record.data,
        "version": record.version,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "user_id": None if user is None else _kept(user),
        "user_hash": None if user is None else hash_user(user),
        "successor": record.successor,
        "serve_until": record.serve_until,
        "about": record.about,
    }


def to_record(row: Any) -> Record:
    """Return the record in a row.

    Raises:
        Unreadable: a value is not of its column's type, or the user is not the one that the row is filed under.
    """
    data, version, created_at, expires_at, user, user_hash, successor, serve_until, about = row
    data = b"" if data is None else data  # Oracle takes nothing for NULL
    about = b"" if about is None else about
    texts = (user, user_hash, successor)
    moments = (created_at, expires_at, serve_until)
    if not are_of_their_types(data, version, moments, texts) or not isinstance(about, bytes):
        raise Unreadable(DAMAGED)
    whose = None if user_hash is None else _given(user)
    if whose is not None and hash_user(whose) != user_hash:
        raise Unreadable(DAMAGED)
    return Record(data, version, created_at, expires_at, whose, successor, serve_until, about)


def hash_user(user: str) -> str:
    # Lone surrogates: no such user can be kept, and asking for one finds nobody.
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


def _kept(text: str | None) -> str | None:
    """Return a text as it is stored. One more space, where there is nothing else: Oracle keeps no empty text."""
    return f"{text} " if text is not None and not text.strip(" ") else text


def _given(text: str | None) -> str | None:
    """Return a text that was stored as it was given."""
    return text[:-1] if text is not None and not text.strip(" ") else text


def indexes_of(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def examine(connection: sa.Connection, table: sa.Table, database: str) -> None:
    """Raise ConfigurationError unless the table is there, as we know it.

    Args:
        connection: to the database.
        table: the table of sessions.
        database: which one it is, for people.
    """
    name = table.fullname
    inspector = sa.inspect(connection)
    try:
        found = inspector.get_columns(table.name, schema=table.schema)
    except exc.NoSuchTableError:
        raise ConfigurationError(missing_table(database, name)) from None
    lacks = {column.name for column in table.columns} - {column["name"] for column in found}
    if lacks:
        raise ConfigurationError(
            f"{database} table {name!r} lacks {', '.join(sorted(lacks))}: if it is Roomkey's, drop it and make it with "
            f"{_creating_command(name)}; if not, give sessions a table of their own, with table"
        )
    dialect = connection.dialect.name
    if dialect not in ("mysql", "mariadb"):
        return
    engine = inspector.get_table_options(table.name, schema=table.schema).get(f"{dialect}_engine", "InnoDB")
    if engine != "InnoDB":
        raise ConfigurationError(
            f"{database} table {name!r} has the engine {engine}, which knows no transactions: "
            f"ALTER TABLE {name} ENGINE = InnoDB"
        )


def missing_table(database: str, table: str) -> str:
    """Say that the table is not there, and how to make it."""
    return (
        f"{database} table {table!r} is not there: make it with {_creating_command(table)}, or "
        "await store.create_table(), or correct the URL"
    )


def _creating_command(table: str) -> str:
    return "roomkey store create URL" + (f" --table {table}" if table != DEFAULT_TABLE else "")
