"""The cookie or the header with the card, `Vary` and `Cache-Control` that a session adds to a response."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from roomkey.core.reply import GIVE, KEEP, Carries, Reply
from roomkey.core.session import Session
from roomkey.core.transaction import Transaction
from roomkey.wire.card_header import CardHeader
from roomkey.wire.cookies import (
    ChunkWriter,
    CookieWriter,
    Headers,
    find_cookies,
    protect_from_caches,
    vary_on_cookie,
)
from roomkey.wire.site_data import clear_site_data

if TYPE_CHECKING:
    from roomkey.config import SessionConfig
    from roomkey.core.committer import Committer
    from roomkey.legacy.move_in import MoveIn

__all__ = ["HeaderOutgoing", "Outgoing"]


class Outgoing:
    """Writes into the responses of one configuration.

    Args:
        config: the configuration.
        writer: writes the cookie, or the header in its place.
        move_in: takes the cookies of other libraries back; None: nothing moves in.
        committer: has the reporter, which is told where the app itself sets our cookie, and the visitors.
    """

    def __init__(
        self,
        config: SessionConfig,
        writer: CookieWriter | ChunkWriter | CardHeader,
        move_in: MoveIn | None,
        committer: Committer,
    ) -> None:
        self._writer, self._move_in, self._reporter = writer, move_in, committer.reporter
        self._visitors, self._secure = committer.visitors, committer.secure
        self._name = config.session_cookie
        self._always_varies = config.vary == "always"
        self._site_data = config.clear_site_data
        self.cookie_start: bytes = f"{config.session_cookie}=".encode("ascii")

    def warn_of_cookie(self) -> None:
        """Say once that the app itself sets our cookie."""
        self._reporter.warn_of_cookie(self._name)

    def look(self, headers: Headers) -> None:
        """Say once that the app itself sets our cookie, where it does."""
        if any(name.lower() == b"set-cookie" and value.startswith(self.cookie_start) for name, value in headers):
            self.warn_of_cookie()

    def write(self, session: Session, headers: Headers) -> None:
        """Put into a response's headers what its session owes."""
        if not session._accessed:
            if self._always_varies and vary_on_cookie(headers, self.cookie_start):
                self.warn_of_cookie()
            return
        is_set = vary_on_cookie(headers, self.cookie_start)
        if is_set:
            self.warn_of_cookie()
        transaction = session._transaction
        if not isinstance(transaction, Transaction):
            return
        reply, visitors = transaction.reply, self._visitors
        if reply.clears_site:
            self._clear_site(reply, headers)
        if is_set and reply.only_renews:
            reply.cookie = KEEP  # the app has taken the cookie back, or given another: that is not to be undone
        others = [] if visitors is None else visitors.headers_of(transaction)
        if reply.cookie is KEEP and not others:
            return
        protect_from_caches(headers)
        headers += others
        if reply.cookie is KEEP:
            return
        secure = self._secure.of(session)
        if self._move_in is not None:
            headers += self._move_in.take_back(partial(find_cookies, session._sent), secure=secure)
        card, seconds = None, 0.0
        if reply.cookie is GIVE:
            card, seconds = reply.card, transaction.seconds_left
        sent = () if reply.carries is Carries.ONE else session._sent
        if sent and transaction.page is not None:
            sent = [*sent, (b":path", transaction.page.encode("utf-8", "replace"))]
        remembered = transaction.rules.is_remembered(transaction.at.facts, transaction.at.user)
        headers += self._writer.write(
            card, seconds, sent, remembered=remembered, logs_out=reply.logs_out, secure=secure
        )
        reply.cookie = KEEP

    def _clear_site(self, reply: Reply, headers: Headers) -> None:
        """Have the browser forget what it keeps of the site."""
        reply.clears_site = False
        protect_from_caches(headers)
        clear_site_data(headers, self._site_data)


class HeaderOutgoing(Outgoing):
    """The same where the card travels in a header.

    Args:
        config: the configuration.
        header: writes the header.
        committer: has the reporter.
    """

    def __init__(self, config: SessionConfig, header: CardHeader, committer: Committer) -> None:
        super().__init__(config, header, None, committer)
        self._header = header

    def look(self, headers: Headers) -> None:
        """Nothing: a cookie of the app's is none of ours."""

    def write(self, session: Session, headers: Headers) -> None:
        if session._accessed or self._always_varies:
            self._header.vary(headers)
        transaction = session._transaction
        if not session._accessed or not isinstance(transaction, Transaction):
            return
        reply = transaction.reply
        if reply.clears_site:
            self._clear_site(reply, headers)
        if reply.cookie is KEEP:
            return
        given = self._header.write(reply.card if reply.cookie is GIVE else None, 0.0, session._sent)
        reply.cookie = KEEP
        if given:
            protect_from_caches(headers)
            self._header.put(headers, given)
