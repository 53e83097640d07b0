"""Text that SQL databases take: the name of a table, and what a client sent."""

from __future__ import annotations

import re

from roomkey.errors import ConfigurationError

__all__ = ["DAMAGED", "DEFAULT_TABLE", "printable", "split_name"]

DEFAULT_TABLE = "roomkey_session"
DAMAGED = "a row holds text that is no UTF-8: it is damaged, and was left alone"
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
