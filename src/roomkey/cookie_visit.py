"""The life of a session that no server keeps (`cookie://`): opened as it arrives, sealed again when it changed.

The card is the session: a digit, the number of cookies that it takes, and in base64url a sealed message
(`roomkey.wire.seal`) of when the session began, when it expires, a random ID and the data as `roomkey.wire.codec`
encodes it. The number is authenticated with it, and so are purpose and cookie name. Both clocks are checked on arrival.

Nothing here waits for anything. Leaves to others: how a card lies in several cookies (`roomkey.wire.cookies`), and
every decision that is the same for a session on the server (`roomkey.lifecycle`, whose classes these extend).
"""

from __future__ import annotations

import binascii
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any, Literal

from roomkey.config import SessionConfig
from roomkey.errors import SessionDataError
from roomkey.events import Created, Ended, Event, LoadedWithOldKey, Rotated
from roomkey.lifecycle import Lifecycle
from roomkey.session import Session
from roomkey.stores.base import Record
from roomkey.stores.cookie import CookieStore
from roomkey.visit import Cookie, Visit
from roomkey.wire import codec
from roomkey.wire.cookies import ChunkWriter
from roomkey.wire.keys import store_key
from roomkey.wire.seal import OVERHEAD, Sealer

if TYPE_CHECKING:
    from roomkey.legacy.move_in import Found
    from roomkey.legacy.readers import Cookies

__all__ = ["CookieLifecycle", "CookieVisit"]

_FORMAT = 1
_HEAD = struct.Struct(">Bdd16s")  # format, created at, expires at (Unix seconds), session ID
_ID_BYTES = 16
_LONGEST_CARD = 1 + 8 * 4096  # characters; more than any that is made


class CookieLifecycle(Lifecycle):
    """Sessions under one configuration, kept by the browsers.

    Raises:
        ConfigurationError: the package `cryptography` is missing, or the cookies would have no room.
    """

    def __init__(self, config: SessionConfig) -> None:
        super().__init__(config)
        assert isinstance(config.store, CookieStore)
        self.sealer = Sealer(config.secret_key, purpose="session in the cookie", name=config.session_cookie)
        self.writer = ChunkWriter(config)
        self.max_size = min(config.store.max_size, self.writer.largest)  # bytes in a `Cookie` header

    def anonymous(self) -> CookieVisit:
        """Return the visit of a request that brought no card."""
        return CookieVisit(self, Session())

    async def arrive(self, cards: list[bytes], cookies: Cookies | None = None) -> Visit:
        """Return the visit of a request that brought these cards; the first one that opens and is not over counts.

        Args:
            cards: what Roomkey's own cookies hold.
            cookies: gives the values of any cookie, for sessions that are to move in.

        Raises:
            StoreUnavailable: where an old session is to move in from does not answer.
        """
        reason: Literal["card", "unknown", "damaged"] = "card"
        for card in cards:
            opened = self._open(card)
            if opened is None:
                continue
            session_id, record, by_first_key = opened
            if self.is_over(record):
                reason = "unknown"  # as a session that the server forgot
                continue
            try:
                data = codec.decode(record.data)
            except codec.DamagedData:
                reason = "damaged"
                continue
            visit = CookieVisit(self, Session(data))
            visit.hold(session_id, record, self.user_of(data))
            visit.has_old_key = not by_first_key
            if visit.has_old_key:
                self.tell(LoadedWithOldKey(visit.key))
            return visit
        if reason == "card" and self.move_in is not None and cookies is not None:
            old = await self.move_in.find(cookies)
            if old is not None:
                return self._take_in(old)
        if reason == "card" and cards:
            return self._refuse_cards(cards)
        return self.refuse(reason) if cards else self.anonymous()

    def _is_stranger(self, card: bytes) -> bool:
        sealed = _decoded(card[1:])
        return sealed is not None and self.sealer.is_stranger(sealed)

    def _take_in(self, old: Found) -> Visit:
        """Return the visit of a request that brought an old session. Nothing is kept here that says it has moved in."""
        from roomkey.legacy.arrival import facts_of, refuse  # here, because few apps move in

        visit = self.anonymous()
        visit.found, visit.facts = old, facts_of(self, old)
        visit.loaded = codec.encode(old.session.data, visit.facts)
        try:
            visit.user = self.checked_user(old.session.data)
            self.check(old.session.data, visit.loaded)
            self.make_card(bytes(_ID_BYTES), Record(visit.loaded, 1, 0.0, 0.0), one_cookie=False)
        except SessionDataError as error:
            return refuse(self, error)
        visit._hold(codec.decode(visit.loaded))
        visit.session.mark_accessed()
        return visit

    async def keep_purging(self) -> None:
        """Return at once: there is nothing to purge."""

    def make_card(self, session_id: bytes, record: Record, *, one_cookie: bool) -> bytes:
        """Return the card for a session.

        Args:
            session_id: its 16 bytes.
            record: the session.
            one_cookie: whether it has to fit into one cookie.

        Raises:
            SessionDataError: it is too large.
        """
        plain = _HEAD.pack(_FORMAT, record.created_at, record.expires_at, session_id) + record.data
        self._check_size(record.data, self.writer.size(_length(record.data)))
        count = self.count(record.data)
        self.check_count(count, one_cookie=one_cookie)
        number = b"%d" % count
        return number + urlsafe_b64encode(self.sealer.seal(plain, bound=number)).rstrip(b"=")

    def count(self, stored: bytes) -> int:
        """Return how many cookies a session takes that is encoded like this."""
        return self.writer.count(_length(stored))

    def check_count(self, count: int, *, one_cookie: bool) -> None:
        """Refuse a card that takes `count` cookies, where it has to fit into one. Raises SessionDataError."""
        if one_cookie and count > 1:
            raise SessionDataError(
                f"the session takes {count} cookies, and the error response that this framework makes of an "
                "HTTPException carries one; return a response instead, or keep less in the session"
            )

    def _check_size(self, stored: bytes, size: int) -> None:
        if size <= self.max_size:
            return
        data = codec.decode(stored)
        largest = max(data, key=lambda key: len(codec.encode({key: data[key]})))
        raise SessionDataError(
            f"the session takes {size} bytes of cookies, and {self.max_size} is the most (CookieStore's max_size); its "
            f"largest key is {largest!r}: keep large things in your database, and their IDs in the session; or use a "
            "store on the server"
        )

    def _open(self, card: bytes) -> tuple[bytes, Record, bool] | None:
        """Return session ID, session, and whether the first key sealed it; None when `card` is not genuine."""
        sealed = _decoded(card[1:])
        if sealed is None:
            return None
        opened = self.sealer.open(sealed, bound=card[:1])
        if opened is None or len(opened.data) < _HEAD.size or opened.data[0] != _FORMAT:
            return None
        _, created_at, expires_at, session_id = _HEAD.unpack_from(opened.data)
        return session_id, Record(opened.data[_HEAD.size :], 1, created_at, expires_at), opened.by_first_key


def _length(stored: bytes) -> int:
    """Return how many characters long the text of a card is, without padding."""
    return (4 * (_HEAD.size + len(stored) + OVERHEAD) + 2) // 3


def _decoded(text: bytes) -> bytes | None:
    """Return what `text` is the base64url of; None when it is not exactly that."""
    if len(text) > _LONGEST_CARD:
        return None
    try:
        decoded = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return None
    # The decoder is lenient, and a card has one form only.
    return decoded if urlsafe_b64encode(decoded).rstrip(b"=") == text else None


class CookieVisit(Visit):
    """One request's dealings with its session. `Visit.key`, the public handle, is a hash of the ID in the cookie."""

    lifecycle: CookieLifecycle

    async def refresh(self) -> None:
        """Do nothing: a server that keeps nothing knows of nothing newer."""

    async def confirm(self) -> None:
        """Refuse to send a card that an earlier `save` decided on, where it takes more cookies than there is room for.

        Raises:
            SessionDataError: it does.
        """
        if self.cookie is Cookie.GIVE:
            self.lifecycle.check_count(int(self.card[:1]), one_cookie=self.one_cookie)

    def unsaved(self) -> bytes | None:
        """As `Visit.unsaved`; to seal a session with the first key can wait for a response that carries cookies."""
        stored, session = super().unsaved(), self.session
        if stored is None or stored != self.loaded or session._asked.needs_saving or not dict.__len__(session):
            return stored
        has_room = self.cookie_possible and not (self.one_cookie and self.lifecycle.count(stored) > 1)
        return stored if has_room else None

    def _is_delicate(self) -> bool:
        return False  # nothing here waits for anything

    async def _commit(self, stored: bytes, begun: dict[str, Any]) -> None:
        """Seal what the request did to its session, and set `cookie` to what the response does with the cookies.

        Raises:
            SessionDataError: a value cannot be stored, or all of it is too large.
            ResponseStarted: the response can carry no cookie any more. Either way nothing was saved; but where the
                session was to end, a response that still goes out takes its cookie back.
        """
        session = self.session
        happened: list[Event] = []  # told once nothing can fail any more
        if self.record is not None and (self.asked.ended or not dict.__len__(session)):
            self._need_cookie("the end of a cookie:// session")
            happened.append(Ended(self.key, self.user, "cleared"))
            self._forget()
            self.cookie = Cookie.CLEAR
        elif self.found is not None and not dict.__len__(session) and self.cookie_possible:
            self.cookie = Cookie.CLEAR  # logged out by the first request: the old cookie may have this name
        if dict.__len__(session):
            happened += self._seal()
        for event in happened:
            self.lifecycle.tell(event)
        await self._forget_old()

    def hold(self, session_id: bytes, record: Record, user: str | None) -> None:
        """Take in a session as the browser has it."""
        self.session_id, self.record, self.user = session_id, record, user
        self.key = store_key(session_id)
        self.loaded, self.facts = record.data, codec.facts_in(record.data)

    def _seal(self) -> list[Event]:
        record, session_id, lifecycle, session = self.record, self.session_id, self.lifecycle, self.session
        data = session._plain()
        user = lifecycle.checked_user(data)
        if user != self.user:
            data = self._left_for(user, data)
        facts = self._facts_of(user, self.asked)
        stored = codec.encode(data, facts)
        lifecycle.check(data, stored)
        self._need_cookie("a changed cookie:// session")
        now = lifecycle.clock()
        proved = facts.authenticated_at is not None and self._is_proved(facts)
        created_at = now if record is None or proved else record.created_at
        # The cookie goes out in any case, so it is renewed too.
        expires_at = lifecycle.until(facts)
        if record is not None and facts.lifetime == self.facts.lifetime:
            expires_at = max(expires_at, record.expires_at)
        old_key, old_user = self.key, self.user
        rotating = self.asked.rotate is not None or self.asked.reauthenticated or user != old_user
        rotating = rotating or self._logs_in(user, self.asked)
        if record is None or rotating or session_id is None:
            session_id = secrets.token_bytes(_ID_BYTES)
        sealed = Record(stored, 1, created_at, expires_at, user)
        self.card = lifecycle.make_card(session_id, sealed, one_cookie=self.one_cookie)
        self.hold(session_id, sealed, user)
        if user != old_user:
            self._hold(data)
        self.cookie, self.has_old_key = Cookie.GIVE, False
        if record is None:
            return [Created(self.key, user)]
        return [Rotated(old_key, self.key, user, old_user)] if rotating else []
