"""No server-side storage: the session itself travels in the browser's cookies, encrypted and authenticated.

What it is made of and how it is kept: `roomkey.in_cookie`. Nothing to load and nothing to save to, so this is no
`Store`; it says that there is none, and how large the cookies may grow.
"""

from __future__ import annotations

from roomkey.errors import ConfigurationError
from roomkey.options import named_options

__all__ = ["CookieStore"]

_DEFAULT_SIZE = 7168  # bytes
_LARGEST_SIZE = 32768  # bytes, 8 cookies; browsers keep more, and few servers take as much
_SMALLEST_SIZE = 512  # bytes; below it, hardly anything fits


@named_options()
class CookieStore:
    """Keep each session in its browser's cookies: `store="cookie://"`. Needs `roomkey[crypto]`.

    Nobody but the server can read or alter it, it expires by the same two clocks as any session, and it costs no store
    operation. But a server that keeps nothing can take nothing back. It cannot:

    - end a session early: `clear()` and `invalidate()` take the cookie out of this browser, and `rotate()` and a log-in
      give this browser another one; a copy made before works until it expires, and `rotate(grace=...)` has nothing to
      grant grace to;
    - forbid going back: whoever kept an earlier cookie can send it again, and has the data of then (a voucher that was
      used up, a counter of failed attempts: keep such things on the server);
    - keep the changes of two requests at once: the last response wins, whole, and `change()` loses updates;
      `refresh()` finds nothing newer;
    - hand out a flash message once: two requests at once both show it;
    - save after the response has started: that is a `ResponseStarted`, also for a change or an end;
    - list, limit or revoke a user's sessions.

    Nothing is compressed, because the length of compressed data tells about its content (CRIME, BREACH); the length of
    the data itself can be seen. Past about 3 KB it is split over several cookies: `session`, `session.1`, ...: leave
    these names to it.

    Args:
        max_size: bytes that all cookies of a session may take in the `Cookie` header; a session past it is a
            `SessionDataError`. The default, 7,168, leaves 1 KB to the app's other cookies where a header ends at 8 KB:
            nginx, Apache and gunicorn answer a longer one with an error page, on every request, until the cookie
            expires. Raise it, up to 32,768, only with the limits of everything before the app: uvicorn and hypercorn
            take 64 KB, CloudFront 10 KB a header.

    Raises:
        ConfigurationError: `max_size` is not a whole number from 512 to 32,768.
    """

    never_waits = True  # there is nothing to wait for

    def __init__(self, *, max_size: int = _DEFAULT_SIZE) -> None:
        if type(max_size) is not int or not _SMALLEST_SIZE <= max_size <= _LARGEST_SIZE:
            raise ConfigurationError(f"max_size: got {max_size!r}; it takes {_SMALLEST_SIZE} to {_LARGEST_SIZE} bytes")
        self.max_size = max_size

    def __repr__(self) -> str:
        return f"CookieStore(max_size={self.max_size})"
