"""Why a server cannot be reached, in words. They name no more than what the URL says of where it is."""

from __future__ import annotations

import errno
import re
import socket
import ssl

__all__ = ["at", "reason"]

_BY_NUMBER = {
    errno.ECONNREFUSED: "nothing listens there (connection refused)",
    errno.ECONNRESET: "the connection was closed",
    errno.ECONNABORTED: "the connection was closed",
    errno.EPIPE: "the connection was closed",
    errno.EHOSTUNREACH: "no way leads to that host",
    errno.ENETUNREACH: "no way leads to that network",
    errno.ETIMEDOUT: "the host does not answer",
    errno.ENOENT: "there is no such socket",
    errno.EACCES: "this process's user may not use that socket",
    errno.EMFILE: "this process may open no more files",
    errno.ENFILE: "this machine may open no more files",
}
_UNKNOWN = "the host name is not known"


def at(where: str) -> str:
    """Return " at ..." for a text; nothing where it is not known."""
    return f" at {where}" if where else ""


def reason(error: BaseException | None) -> str | None:
    """Return what the system, or TLS, says is in the way; None where neither says anything.

    Args:
        error: a driver's, or what is behind it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        said = _said(error)
        if said is not None:
            return said
        error = error.__cause__ or error.__context__
    return None


def _said(error: BaseException) -> str | None:
    if isinstance(error, socket.gaierror):
        again = error.errno == socket.EAI_AGAIN
        return "the name server does not answer" if again else _UNKNOWN
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "what answers there does not speak TLS"
    if not isinstance(error, OSError):
        return None
    if "rejected SSL" in str(error):  # asyncpg
        return "what answers there has no TLS, or is no PostgreSQL server"
    number = error.errno
    if number is None:  # asyncio puts the errors of several addresses into one text
        found = re.search(r"\[Errno (-?\d+)\]", str(error))
        number = int(found[1]) if found else None
    if number is None and isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        number = errno.ECONNRESET
    if number is None and isinstance(error, ConnectionRefusedError):
        number = errno.ECONNREFUSED
    return _BY_NUMBER.get(number) if number is not None else None
