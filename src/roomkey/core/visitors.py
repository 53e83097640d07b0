"""What CSRF tokens of visitors without a session are bound to: a signed random value in a cookie of its own.

Where a page asks for a token and no session is there, none begins for it: a bot that looks at the page leaves no
record.

The cookie has the prefix `__Host-` (RFC 6265bis section 4.1.3.2). No subdomain, no other path and no plain HTTP can put
one into a browser, so that nobody plants a value whose token they know. For that it needs `https_only`, and no
`domain`. Elsewhere tokens lie in the session. A log-in takes the cookie back, and its tokens count for nobody who is
logged in.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, NamedTuple

from roomkey.core.reply import CLEAR, GIVE, KEEP, Carries
from roomkey.wire.cookies import CookieWriter, Headers, find_cookies
from roomkey.wire.keys import Keyring, new_session_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roomkey.config import SessionConfig
    from roomkey.core.state import RequestState

__all__ = ["Visitors", "visitors_for"]

_PREFIXES = ("__host-", "__secure-")
_LONGEST = 256  # characters of a cookie's name


class _Attributes(NamedTuple):
    """Of the cookie: for the whole host, and for as long as the browser runs."""

    session_cookie: str
    same_site: Literal["lax", "strict", "none"]
    partitioned: bool
    path: str = "/"
    domain: str | None = None
    https_only: bool = True
    persistent: bool = False


class Visitors:
    """The visitors' cookie of one configuration.

    Args:
        config: the configuration.
    """

    def __init__(self, config: SessionConfig) -> None:
        name = _name_beside(config)
        self._name = name.encode("ascii")
        self._keyring = Keyring(config.secret_key, purpose="CSRF token of a visitor", name=name)
        self._writer = CookieWriter(_Attributes(name, config.same_site, config.partitioned))

    def value_for(self, state: RequestState, *, begins: bool) -> bytes | None:
        """Return the signed value that a visitor's tokens are bound to; None: there is none.

        Args:
            state: of the request.
            begins: whether the response is to give one, where the request brought none.
        """
        reply = state.reply
        if reply.visitor is not None:
            return reply.visitor
        # Where a session ends, so does what belonged to the visitor before.
        value = None if state.at.exists and begins else self._brought(state.session._sent)
        if value is None and begins and reply.is_open:
            value = reply.visitor = self._keyring.sign(new_session_id())
        return value

    def _brought(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Return the signed value that a request brought; None: none, or more than one, which no browser sends."""
        values = find_cookies(headers, self._name)
        return values[0] if len(values) == 1 and self._keyring.verify(values[0]) is not None else None

    def take_back(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return the header that takes the cookie back, where a request brought it."""
        return [self._writer.clear()] if find_cookies(headers, self._name) else []

    def headers_of(self, state: RequestState) -> Headers:
        """Return what a response says about the cookie, beside that of the session."""
        reply, sent = state.reply, state.session._sent
        value, reply.visitor = reply.visitor, None
        if reply.carries is Carries.ONE and reply.cookie is not KEEP:
            return []  # there is room for the session's cookie only
        if reply.cookie is GIVE and state.at.user is not None:
            return self.take_back(sent)
        if value is not None:
            return [self._writer.give(value, 0)]
        return self.take_back(sent) if reply.cookie is CLEAR else []


def visitors_for(config: SessionConfig) -> Visitors | None:
    """Return what keeps visitors' tokens; None: a browser would not keep the cookie, or nobody knows who logs in."""
    return Visitors(config) if config.https_only and config.domain is None and config.user_key is not None else None


def _name_beside(config: SessionConfig) -> str:
    """Return the cookie's name: another one for each cookie of a session on the same host."""
    own = name = config.session_cookie
    for prefix in _PREFIXES:
        if own.lower().startswith(prefix):
            name = own[len(prefix) :]
    whole = f"__Host-{name}-csrf"
    if name == own and config.path == "/" and len(whole) <= _LONGEST:
        return whole
    # What the name does not say of the session's cookie, the hash does: its prefix, its path, and all that is too long.
    return f"__Host-{name[:200]}-{hashlib.sha256(f'{own} {config.path}'.encode()).hexdigest()[:16]}-csrf"
