"""From a store's URL to the store. A store's module and its driver are imported here, and only when named."""

from __future__ import annotations

from typing import cast

from roomkey.errors import ConfigurationError
from roomkey.stores.base import Store

__all__ = ["store_from"]

_TAKES = "it takes memory://, sqlite:///relative/path.db, sqlite:////absolute/path.db, or a Store"


def store_from(value: object) -> Store:
    """Return the store that `value` names.

    Args:
        value: a URL, or a `Store`, which is returned as it is.

    Raises:
        ConfigurationError: neither, or a URL that names no store. The URL itself is not shown: it may hold a password.
    """
    if isinstance(value, str):
        scheme, separator, rest = value.partition("://")
        if not separator:
            raise ConfigurationError(f"store: got text that is no URL; {_TAKES}")
        if scheme == "memory":
            from roomkey.stores.memory import MemoryStore

            return MemoryStore()
        if scheme == "sqlite":
            from urllib.parse import unquote

            from roomkey.stores.sqlite import SQLiteStore

            if not rest.startswith("/") or rest.strip("/") in ("", ":memory:"):
                raise ConfigurationError(
                    f"store: a sqlite URL without a file; for sessions in memory: memory://; {_TAKES}"
                )
            return SQLiteStore(unquote(rest[1:]))
        raise ConfigurationError(f"store: unknown scheme {scheme[:40]!r}; {_TAKES}")
    if isinstance(value, type):
        raise ConfigurationError(f"store: got the class {value.__name__}; make one: {value.__name__}(...)")
    missing = [name for name in _OPERATIONS if not callable(getattr(value, name, None))]
    if missing:
        raise ConfigurationError(
            f"store: {type(value).__name__} has no {', '.join(missing)}; {_TAKES} (see roomkey.stores.base.Store)"
        )
    return cast(Store, value)


_OPERATIONS = ("load", "create", "update", "rotate", "touch", "delete")
