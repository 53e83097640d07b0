"""What a request brings, and the session that it gets for it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from roomkey.core.loader import StoreLoader
from roomkey.core.session import Session
from roomkey.errors import SessionDataError
from roomkey.routes import Begin, by_path
from roomkey.stores.base import Unreadable
from roomkey.stores.cookie import CookieStore
from roomkey.wire.card_header import CardHeader
from roomkey.wire.cookies import Headers, find_chunked, find_cookies

if TYPE_CHECKING:
    from roomkey.config import SessionConfig
    from roomkey.in_cookie.loader import CookieLoader
    from roomkey.legacy.move_in import MoveIn

__all__ = ["Incoming"]


class Incoming:
    """Finds the session of each request of one configuration.

    Args:
        config: the configuration.
        loader: loads sessions.
        move_in: finds sessions of other libraries; None: nothing moves in.
    """

    def __init__(self, config: SessionConfig, loader: StoreLoader | CookieLoader, move_in: MoveIn | None) -> None:
        self._config, self._loader, self._move_in = config, loader, move_in
        self._clients = loader.committer.clients
        is_chunked = isinstance(config.store, CookieStore)
        self._find: Callable[[Headers, bytes], list[bytes]] = find_chunked if is_chunked else find_cookies
        if config.card_header is not None:
            self._find = CardHeader(config.card_header).find
        self._cookie_name = config.session_cookie.encode("ascii")
        # Whether a commit needs something of the request.
        self.is_asked: bool = (
            is_chunked or move_in is not None or config.record_client or config.card_header is not None
        )

    def quickest(self) -> Begin:
        """Return what begins requests: it takes the raw headers and the scope, and is a coroutine where it waits."""
        begin: Begin = self.begin
        if not self.is_asked and isinstance(self._loader, StoreLoader):
            begin = self._loader.from_headers
        return by_path(begin, self._loader, self._config, self.begin_fresh)

    def begin(self, headers: Headers, scope: Mapping[str, Any]) -> Session | Coroutine[Any, Any, Session]:
        """Return the session of a request.

        Args:
            headers: of the request.
            scope: has the client's address, and the path.
        """
        return self._begin(headers, scope, self._loader.load)

    def begin_fresh(self, headers: Headers, scope: Mapping[str, Any]) -> Session | Coroutine[Any, Any, Session]:
        """As `begin`, from the store in any case."""
        return self._begin(headers, scope, self._loader.load_fresh)

    def _begin(
        self, headers: Headers, scope: Mapping[str, Any], load: Callable[..., Session | Coroutine[Any, Any, Session]]
    ) -> Session | Coroutine[Any, Any, Session]:
        answer: Session | Coroutine[Any, Any, Session]
        cards = self._find(headers, self._cookie_name)
        if self._move_in is not None:
            # Only without a genuine card: a genuine card whose session has ended means that the user has logged out.
            answer = load(cards, partial(self._arrive, self._move_in, headers))
        else:
            answer = load(cards) if cards else self._loader.anonymous()
        if len(cards) > 1 and isinstance(answer, Session):  # for the paths of all that are taken back
            self._loader.transaction_of(answer).page = scope.get("path", "/")
        if self._config.record_client:
            if not isinstance(answer, Session):
                return self._recording(answer, headers, scope)
            self._record(answer, headers, scope)
        return answer

    async def _recording(
        self, answer: Coroutine[Any, Any, Session], headers: Headers, scope: Mapping[str, Any]
    ) -> Session:
        session = await answer
        self._record(session, headers, scope)
        return session

    def _record(self, session: Session, headers: Headers, scope: Mapping[str, Any]) -> None:
        address = scope.get("client")
        session._peer = (address,)
        key, record = session._loaded[:2]
        if record.about and self._clients is not None:
            self._clients.compare(session, key, record.user, record.about, address, headers)

    async def _arrive(self, move_in: MoveIn, headers: Headers, cards: list[bytes]) -> Session:
        """Return the session of a request that brought no genuine card, but perhaps another library's session."""
        from roomkey.legacy.arrival import arrive_with, facts_of, refuse

        old = await move_in.find(partial(find_cookies, headers))
        if old is None:
            return self._loader.strangers(cards)
        try:
            if isinstance(self._loader, StoreLoader):
                return await arrive_with(self._loader, old)
            return self._loader.take_in(old, facts_of(self._loader.rules, old))
        except Unreadable:
            return self._loader.refuse("damaged")
        except SessionDataError as error:
            return refuse(self._loader, error)
