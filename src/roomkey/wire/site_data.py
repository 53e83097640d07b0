"""`Clear-Site-Data`: what a browser is to forget of a site after a log-out (W3C, Clear Site Data, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.wire.cookies import Headers

__all__ = ["checked_kinds", "clear_site_data"]

_NAME = b"clear-site-data"
_KINDS = ("cache", "storage", "executionContexts", "clientHints", "prefetchCache", "prerenderCache")


def checked_kinds(given: Any) -> tuple[str, ...]:
    """Return the option `clear_site_data` as it is kept. Raises ConfigurationError."""
    if isinstance(given, list | tuple):
        for kind in ("cookies", "*"):
            if kind in given:
                raise ConfigurationError(
                    f"clear_site_data: got {kind!r}, which takes every cookie of the site and its subdomains, also the "
                    "one of a session that begins with the same response; leave it out: Roomkey takes its own cookie "
                    "back"
                )
        if all(kind in _KINDS for kind in given):
            return tuple(dict.fromkeys(given))
    raise ConfigurationError(f"clear_site_data: got {given!r}; it takes a list of {', '.join(map(repr, _KINDS))}")


def clear_site_data(headers: Headers, kinds: Sequence[str]) -> None:
    """Put the header into a response's, beside what the app says there itself."""
    value = ", ".join(f'"{kind}"' for kind in kinds).encode("ascii")
    for place, (name, said) in enumerate(headers):
        if name.lower() == _NAME:
            headers[place] = (name, said + b", " + value)
            return
    headers.append((_NAME, value))
