"""The card in a header on the wire: found in the raw request headers, written into the raw response headers.

With `Authorization` it is a bearer token (RFC 6750 section 2.1), and the response hands it out as `Session-Card`,
because `Authorization` is a request's header only. A header of one's own carries the bare card both ways.

Leaves to others: whether the card is genuine (`roomkey.wire.keys`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from roomkey.errors import ConfigurationError
from roomkey.wire.cookies import Headers

__all__ = ["SERVED_BY_HEADER", "UNCHECKED", "CardHeader", "check_card_header"]

# Where an ASGI scope has the session that `SessionMiddleware` found by a header. It counts only as long as the same
# session is the scope's: a middleware further in may serve a cookie.
SERVED_BY_HEADER = "roomkey.served_by_header"

# In the scope of a request that `CSRFMiddleware` let pass for that reason alone. A cookie further in is not protected.
UNCHECKED = "roomkey.unchecked"

# No underscore: nginx drops such a header, and to WSGI it is the same as a hyphen.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9\-]{0,63}")
_OTHERS = frozenset({"cookie", "set-cookie", "vary", "host", "connection", "upgrade", "origin", "date"})
_OF_OTHERS = ("cache-", "content-", "access-control-", "sec-", "proxy-", "transfer-", "x-forwarded-", "www-")
_SPACE = b" \t"
_TWO = b""  # stands for several cards: it is none that any key signed


def check_card_header(name: object, of_cookies: Iterable[str]) -> None:
    """Check the option `card_header`.

    Args:
        name: what was given.
        of_cookies: options about cookies that were given beside it.

    Raises:
        ConfigurationError: it is no name of a header, another header, or was given beside options about cookies.
    """
    lower = name.lower() if isinstance(name, str) and _NAME.fullmatch(name) else None
    if lower is None or lower in _OTHERS or lower.startswith(_OF_OTHERS):
        raise ConfigurationError(
            f"card_header: got {name!r}; it takes 'Authorization', or a header of your own such as 'X-Auth-Token': up "
            "to 64 letters, digits and hyphens"
        )
    for option in of_cookies:
        what = "cookie:// is" if option == "store" else "it is"
        raise ConfigurationError(
            f"{option}: {what} for cookies, and card_header={name!r} neither reads nor sends any; leave one of them out"
        )


class CardHeader:
    """The header of one configuration.

    Args:
        name: of the request's header, as `check_card_header` takes it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_bearer: bool = name.lower() == "authorization"
        self.given_in: str = "Session-Card" if self.is_bearer else name  # the name of the response's header
        self._sent_in = name.lower().encode("ascii")
        self._given_in = self.given_in.lower().encode("ascii")

    def find(self, headers: Iterable[tuple[bytes, bytes]], _: object = None) -> list[bytes]:
        """Return the card that a request brought, alone in a list; an empty list where it brought none.

        Nothing that a client sends raises. Several headers are one card that is not genuine, for a proxy may go by
        another one of them than the app. Another scheme than `Bearer` is none of ours, and an empty value, which a
        log-out gave, is no card.
        """
        values = [value.strip(_SPACE) for name, value in headers if name == self._sent_in]
        if not values:
            return []
        found = [card for card in map(self._card_in, values) if card]
        return [_TWO] if found and len(values) > 1 else found

    def _card_in(self, value: bytes) -> bytes | None:
        if not self.is_bearer:
            return value
        scheme, _, card = value.partition(b" ")
        return card.strip(_SPACE) if scheme.lower() == b"bearer" else None  # RFC 9110 section 11.1: any case

    def vary(self, headers: Headers) -> None:
        """Say in place that the response depends on the header (RFC 9110 section 12.5.5)."""
        for index, (name, value) in enumerate(headers):
            if name.lower() == b"vary":
                named = {item.strip().lower() for item in value.split(b",")}
                if self._sent_in not in named and b"*" not in named:
                    own = self.name.encode("ascii")
                    headers[index] = (name, value + b", " + own if value.strip() else own)
                return
        headers.append((b"vary", self.name.encode("ascii")))

    def write(
        self,
        card: bytes | None,
        seconds: float,
        sent: Iterable[tuple[bytes, bytes]],
        *,
        remembered: bool = False,
        logs_out: bool = False,
        secure: bool = False,
    ) -> Headers:
        """Return the header that hands out `card`, or takes it back with an empty value where it is None.

        A client that brought this very card gets none: it has no expiry to renew. As `CookieWriter.write`, of which the
        other arguments are.
        """
        if card is not None and card in self.find(sent):
            return []
        return [(self._given_in, b"" if card is None else card)]

    def put(self, headers: Headers, given: Headers) -> None:
        """Put in place what `write` returned into a response's headers, and take out one that the app has set."""
        headers[:] = [*(header for header in headers if header[0].lower() != self._given_in), *given]
