"""Whether the cookies of a response are `Secure`: what `https_only` says, and with `"auto"` the request.

A card says whether it was given as `Secure`. It is signed for that, or sealed with it. A browser sends such a card over
HTTPS only. Where one comes over plain HTTP all the same, a proxy speaks HTTPS and the server does not know, or the
browser takes the host for a secure one (localhost). The card that replaces it is `Secure` too, in both cases. Without
that, one response would leave a browser with a card that it sends over plain HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roomkey.config import SessionConfig
    from roomkey.core.session import Session

__all__ = ["HTTPS", "Secure"]

HTTPS = frozenset({"https", "wss"})  # schemes

Find = Callable[["Iterable[tuple[bytes, bytes]]", bytes], list[bytes]]


class Secure:
    """Of one configuration. It is asked where a cookie goes out, and by no other request.

    Args:
        config: says `https_only`, and the name of the cookie.
        find: returns the cards in a request's headers.
        was_given_so: whether a card is genuine, and was given as `Secure`.
    """

    def __init__(self, config: SessionConfig, find: Find, was_given_so: Callable[[bytes], bool]) -> None:
        self._always: bool | None = None if config.https_only == "auto" else config.https_only
        if config.card_header is not None:  # no cookie goes out
            self._always = False
        self._name = config.session_cookie.encode("ascii")
        self._find, self._was_given_so = find, was_given_so

    def of(self, session: Session) -> bool:
        """Whether the cookies of the response to a session's request are `Secure`."""
        if self._always is not None:
            return self._always
        if not session._is_https and self._was_brought(session._sent):
            session._is_https = True  # by whoever sends such a card
        return session._is_https

    def _was_brought(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        return any(map(self._was_given_so, self._find(headers, self._name)))
