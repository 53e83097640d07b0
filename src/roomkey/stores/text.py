"""Text that SQL databases take: the name of a table, and a user's ID."""

from __future__ import annotations

import re

from roomkey.errors import ConfigurationError, SessionDataError

__all__ = ["DAMAGED", "DEFAULT_TABLE", "NotInCharset", "has_port", "printable", "split_name"]

DEFAULT_TABLE = "roomkey_session"
DAMAGED = "a row holds a value that is not what its column says: it is damaged, and was left alone"
_LONGEST_NAME = 50  # characters of a table's name: PostgreSQL cuts names at 63, and those of the indexes are longer


def split_name(table: str) -> tuple[str | None, str]:
    """Return the schema, None where there is none, and the name of a table.

    Raises:
        ConfigurationError: it is not `table` or `schema.table`.
    """
    parts = table.split(".") if isinstance(table, str) else []
    if not 1 <= len(parts) <= 2 or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*", part) for part in parts):
        raise ConfigurationError(
            f"table: {table!r}; it takes 'table' or 'schema.table', of letters, digits and underscores"
        )
    if any(len(part) > _LONGEST_NAME for part in parts):
        raise ConfigurationError(f"table: {table!r}; it takes names of at most {_LONGEST_NAME} characters")
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def printable(text: str | None) -> str | None:
    """Return what a client sent without the characters that databases refuse. It is kept for people to read."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()


class NotInCharset(SessionDataError):
    """The database's character set lacks a character."""

    def __init__(self) -> None:
        super().__init__(
            "user_key: the user's ID has a character that the database's character set does not have, and was not "
            "saved: give sessions a database in UTF-8 (PostgreSQL: CREATE DATABASE ... ENCODING 'UTF8'), or users "
            "another ID"
        )


def has_port(text: str) -> bool:
    """Whether the port of a host in a URL is one, or there is none."""
    host, colon, port = text.rpartition(":")
    if not colon or not port or "]" in port or (":" in host and not host.endswith("]")):
        return True  # an IPv6 address has colons too
    return port.isascii() and port.isdigit() and 0 < int(port) < 65536
