"""What CSRF tokens of visitors without a session are bound to: a signed random value in a cookie of its own.

Where a page asks for a token and no session is there, none begins for it: a bot that looks at the page leaves no
record.

The cookie has the prefix `__Host-` (RFC 6265bis section 4.1.3.2). No subdomain, no other path and no plain HTTP can put
one into a browser, so that nobody plants a value whose token they know. For that it needs `https_only=True`,
and no `domain`. Elsewhere tokens lie in the session.

Its tokens count for nobody who is logged in. A log-in and a log-out take the cookie back, also where the request
brought none: with `SameSite=Strict`, a link in a mail logs somebody in without it. Where such a response carries the
session's cookie only, the user's next page that asks for a token takes it back, or the log-out.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, NamedTuple

from roomkey.core.reply import CLEAR, GIVE, KEEP, NONE, Carries
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
        self.taken_back: tuple[bytes, bytes] = self._writer.clear()  # the header that takes the cookie back

    def value_for(self, state: RequestState, user: str | None, *, begins: bool) -> bytes | None:
        """Return the signed value that a visitor's tokens are bound to; None: there is none.

        Args:
            state: of the request.
            user: whose session it is. A user has no such tokens, and a cookie that the request brought is taken back.
            begins: whether the response is to give one, where the request brought none.
        """
        reply = state.reply
        if user is not None:
            if state.at.user is not None and find_cookies(state.session._sent, self._name):
                reply.end_visitor()
            return None
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

    def headers_of(self, state: RequestState) -> Headers:
        """Return what a response says about the cookie, beside that of the session."""
        reply, is_users = state.reply, state.at.user is not None
        value, ends = reply.visitor, reply.ends_visitor
        reply.visitor, reply.ends_visitor = None, False
        if reply.carries is NONE or (reply.carries is Carries.ONE and reply.cookie is not KEEP):
            return []  # there is no room, or for the session's cookie only
        if value is not None and not (is_users and (ends or reply.cookie is GIVE)):
            return [self._writer.give(value, 0)]
        if not ends and (reply.cookie is CLEAR or (reply.cookie is GIVE and is_users)):
            ends = find_cookies(state.session._sent, self._name) != []
        return [self.taken_back] if ends else []


def visitors_for(config: SessionConfig) -> Visitors | None:
    """Return what keeps visitors' tokens; None: a browser would not keep the cookie, or nobody knows who logs in."""
    if config.card_header is not None:  # no cookie is sent
        return None
    is_kept = config.https_only is True and config.domain is None
    return Visitors(config) if is_kept and config.user_key is not None else None


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
