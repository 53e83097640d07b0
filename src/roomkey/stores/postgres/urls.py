"""From a URL to what a connection takes: checked here, and nowhere shown."""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass

from roomkey.errors import ConfigurationError
from roomkey.stores.text import has_port

__all__ = ["CONNECTIONS", "TAKES", "Target", "read_count", "read_url"]

CONNECTIONS = 10


@dataclass
class Target:
    """Where to connect to, and how."""

    dsns: list[str]  # of the same hosts, another first in each; may hold a password: never shown
    shown: str  # host, port and database
    where: str  # host and port
    settings: dict[str, str]  # for the server
    max_connections: int = CONNECTIONS
    statement_cache_size: int = 100

    def __repr__(self) -> str:
        return f"<Target {self.shown!r}>"


_OURS = {"table", "max_connections", "statement_cache_size"}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(:[0-9]*)?")
TAKES = "it takes postgresql://user:password@host:5432/database"


def read_url(url: str) -> tuple[Target, dict[str, str]]:
    """Return what the URL says to the driver, and what to us. No error of this shows any of it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(f"this is no PostgreSQL URL; {TAKES}")
    try:
        parts = urllib.parse.urlsplit(url)
        query = urllib.parse.parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(f"the PostgreSQL URL cannot be read; {TAKES}") from None
    hosts = parts.netloc.rpartition("@")[2]
    # A password with / ? # or @ in it splits the URL in the wrong place; what comes before would be taken for a host.
    split_wrong = "#" in url or "@" in rest[len(parts.netloc) :] or "@" in parts.netloc.rpartition("@")[0]
    if "@" not in url and not split_wrong and not all(has_port(host) for host in hosts.split(",")):
        raise ConfigurationError(
            "the PostgreSQL URL's port takes a number up to 65535: postgresql://host:5432/database"
        )
    if split_wrong or not all(_is_host(host) for host in hosts.split(",")):
        raise ConfigurationError(
            f"the PostgreSQL URL cannot be read: write / ? # @ : % in its password as %2F %3F %23 %40 %3A %25; {TAKES}"
        )
    options = {name: value for name, value in query if name in _OURS}
    theirs = [(name, value) for name, value in query if name not in _OURS]
    names = dict(theirs)
    if names.get("sslmode", "prefer") not in _SSL_MODES:
        raise ConfigurationError(f"sslmode in the PostgreSQL URL takes one of {', '.join(_SSL_MODES)}")
    for name in _FILES:
        # The driver would only find out when it connects, and that looks like a server that is down.
        if not os.path.exists(names.get(name, "/")):
            raise ConfigurationError(f"{name} in the PostgreSQL URL names no file that is there")
    who, at, _ = parts.netloc.rpartition("@")
    several, tail = hosts.split(","), parts.path + (f"?{urllib.parse.urlencode(theirs)}" if theirs else "")
    turns = [",".join(several[n:] + several[:n]) for n in range(len(several))]
    settings = {} if "application_name" in names else {"application_name": "roomkey"}
    where = hosts or names.get("host", "")
    shown = where + urllib.parse.unquote(parts.path)
    return Target([f"{scheme}://{who}{at}{turn}{tail}" for turn in turns], shown, where, settings), options


def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None and has_port(text)


def read_count(name: str, value: int | None, options: dict[str, str], *, default: int, least: int) -> int:
    """Return a number that was given as an argument, or else in the URL."""
    if value is None and name in options:
        text = options[name]
        value = int(text) if text.isascii() and text.isdigit() else -1
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}: it takes a whole number, at least {least}")
    return value
