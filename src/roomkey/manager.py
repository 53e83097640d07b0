"""SessionManager: loads and commits sessions, for every framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from weakref import WeakSet

from roomkey.arguments import check_session, checked_config
from roomkey.config import SessionConfig, SessionOptions
from roomkey.core.at_once import AtOnce
from roomkey.core.loader import Loader, StoreLoader
from roomkey.core.nearby import loader_for
from roomkey.core.registry import Registry
from roomkey.core.reply import NONE, SEVERAL, Carries
from roomkey.core.reporting import Reporter
from roomkey.core.secure import HTTPS
from roomkey.core.session import Session
from roomkey.core.swaps import StoreCommitter
from roomkey.core.transaction import Transaction
from roomkey.core.users import Sessions
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.event_loop import needs_asyncio
from roomkey.incoming import Incoming
from roomkey.lifespan import Lifespan
from roomkey.outgoing import HeaderOutgoing, Outgoing
from roomkey.request import Request, raw_pairs, raw_request, text_pairs
from roomkey.routes import Begin
from roomkey.stores.cookie import CookieStore
from roomkey.stores.near import Near
from roomkey.wire.card_header import CardHeader
from roomkey.wire.cookies import ChunkWriter, CookieWriter

if TYPE_CHECKING:
    from roomkey.core.committer import Committer
    from roomkey.core.live import Live
    from roomkey.in_cookie.loader import CookieLoader
    from roomkey.legacy.move_in import MoveIn
    from roomkey.sync import SyncManager

__all__ = ["SessionManager", "managers"]

RawHeaders = list[tuple[bytes, bytes]]
_Text = TypeVar("_Text", str, bytes)


_made: WeakSet[SessionManager] = WeakSet()


def managers() -> list[SessionManager]:
    """Return the session managers of this process: for tools that look at an app which made some."""
    return list(_made)


class SessionManager:
    """Loads a request's session and commits it with the response. Frameworks' adaptors are made of it.

    It is made once for an app. Several adaptors and middlewares may share one. It works in any event loop, and without
    `async with`, which opens the store, removes expired sessions from time to time, and closes the store.

    Args:
        config: the configuration; or give its options by keyword, under the names of `SessionConfig`.
        session_class: what handlers get: `Session`, or a subclass of it.

    Raises:
        ConfigurationError: an option is wrong, unknown or missing, or both a config and options were given.

    Example:
        >>> import asyncio
        >>> from roomkey import SessionManager
        >>> manager = SessionManager(secret_key="k" * 32, store="memory://")
        >>> async def log_in(cookie, headers):
        ...     session = await manager.load(cookie)
        ...     session["user_id"] = 7
        ...     return await manager.commit(session, headers=headers)
        >>> [name for name, _ in asyncio.run(log_in(None, [("content-type", "text/plain")]))]
        ['content-type', 'vary', 'cache-control', 'set-cookie']
    """

    def __init__(
        self,
        config: SessionConfig | None = None,
        *,
        session_class: type[Session] = Session,
        **options: Unpack[SessionOptions],
    ) -> None:
        config = checked_config(config, dict(options))
        if not (isinstance(session_class, type) and issubclass(session_class, Session)):
            raise ConfigurationError(f"session_class: got {session_class!r}; it takes a subclass of roomkey.Session")
        self.config = config
        self.reporter: Reporter = Reporter(config.on_event, config.carrier[0], config.store_timeout)
        reporter = self.reporter
        self._committer: Committer
        self._loader: StoreLoader | CookieLoader
        writer: CookieWriter | ChunkWriter
        if isinstance(config.store, CookieStore):
            from roomkey.in_cookie.committer import CookieCommitter  # here, because it needs the package cryptography
            from roomkey.in_cookie.loader import CookieLoader

            sealing = self._committer = CookieCommitter(config, reporter)
            self._loader, writer = CookieLoader(sealing, session_class), sealing.cards.writer
        else:
            swapping = self._committer = StoreCommitter(config, reporter)
            self._loader, writer = loader_for(swapping, session_class), CookieWriter(config)
        move_in: MoveIn | None = None
        if config.legacy:
            from roomkey.legacy.beside import move_in_to  # here, because few apps move in

            move_in = move_in_to(self._loader)
        incoming = self._incoming = Incoming(config, self._loader, move_in)
        name = config.card_header
        self.outgoing: Outgoing | HeaderOutgoing
        if name is None:
            self.outgoing = Outgoing(config, writer, move_in, self._committer)
        else:
            self.outgoing = HeaderOutgoing(config, CardHeader(name), self._committer)
        # The request's header with the card.
        self.carrier: bytes = b"cookie" if name is None else name.lower().encode("ascii")
        # As `load`, with raw headers; a coroutine only where the store waits. The scope has the client's address.
        self._begin_here = incoming.quickest()
        self.begin: Begin = self._begin_first
        self._lifespan = Lifespan(self._committer)
        _made.add(self)
        self.at_once: AtOnce | None = self._make_at_once(writer, asks_more=incoming.is_asked)

    def _make_at_once(self, writer: CookieWriter | ChunkWriter, *, asks_more: bool) -> AtOnce | None:
        committer, config = self._committer, self.config
        more = asks_more or config.seal or config.max_sessions_per_user is not None
        if more or not (isinstance(committer, StoreCommitter) and isinstance(writer, CookieWriter)):
            return None
        return AtOnce(committer, writer) if committer.store.never_waits else None

    # --- for adaptors ---------------------------------------------------------------------------------------------

    async def load(self, request: Request | str | bytes | None = None) -> Session:
        """Return the session of a request; an empty one where it brought none.

        Args:
            request: the request, or the value of its `Cookie` header alone (with `card_header`, the value of that);
                None: it has none. Only a request has a path, for `exclude` and `passive`, and a scheme, for
                `https_only="auto"`.

        Raises:
            StoreUnavailable: whether there is a session cannot be known. Answer with a 503; there is nothing to commit.
            ConfigurationError: this is not asyncio, but trio.
            TypeError: it is another framework's request, say.
        """
        return await self.load_raw(*raw_request(request, self.carrier))

    async def commit(
        self,
        session: Session,
        *,
        status: int = 200,
        headers: Iterable[tuple[_Text, _Text]] = (),
        can_set_cookie: bool | None = None,
        raw: bool | None = None,
    ) -> list[tuple[_Text, _Text]]:
        """Save a session, and return the headers that the response is to have. Call it before the response starts.

        Called again, after a stream or a background task, it saves what has changed since. Where it has raised, the
        response says that the request failed. Call it for that response too: it saves nothing more, and raises nothing
        more, but an earlier `session.save()` may have made a cookie that has to go out.

        Args:
            session: what `load` returned.
            status: of the response. One that the app made of an error saves too; what an error page of the framework
                must not save, give to `abandon`.
            headers: all headers of the response, as pairs of `str` or of `bytes`.
            can_set_cookie: whether a cookie can still go out; None: with the first call that succeeds, and with none
                after it.
            raw: whether the headers are pairs of `bytes`; None: as the first of them is. Say it where there may be
                none at all.

        Returns:
            All headers that are to go out, of the type that was given. `Set-Cookie` (with `card_header`, the header
            with the card) and `Vary` are added where they are due, and what the app said to caches is taken out where
            it would have them keep the cookie.

        Raises:
            StoreUnavailable: the store did not acknowledge. Answer with a 503; `retry_after` says after how many
                seconds to try again.
            SessionDataError: a value cannot be stored. Nothing was saved.
            ResponseStarted: it needs a cookie that can no longer be sent. Nothing was saved.
            TypeError: it is no session, or the headers are no pairs.
        """
        pairs, raw = raw_pairs(headers, raw)
        work = self.commit_now(session, pairs, status, can_set_cookie)
        if work is not None:
            await work
        return pairs if raw else text_pairs(pairs)  # type: ignore[return-value]

    def abandon(self, session: Session) -> None:
        """Note that the request failed: nothing more of its session is saved. What was saved early stays saved."""
        check_session(session, self._loader, "abandon")
        transaction = self.transaction(session)
        transaction.reply.saves = False
        transaction.note(None)

    @property
    def sessions(self) -> Sessions:
        """The sessions of users, to list and to revoke: `await manager.sessions.of(user)`.

        Raises:
            ConfigurationError: nothing is kept on the server (`cookie://`).
        """
        return Sessions(self)

    @property
    def sync(self) -> SyncManager:
        """The same, blocking, for frameworks that are not asynchronous: `manager.sync.load(request)`."""
        sync = self._sync
        if sync is None:
            from roomkey.sync import SyncManager  # here, because it needs asyncio, and few apps need it

            sync = self.__dict__.setdefault("_sync", SyncManager(self))  # of two threads, both get the first one's
        return sync

    _sync: SyncManager | None = None

    async def __aenter__(self) -> Self:
        """Open the store, and begin to remove expired sessions.

        Raises:
            ConfigurationError: the store cannot work like this, or this is not asyncio. A store that does not answer
                raises nothing: it may come back, and until then `load` raises StoreUnavailable.
        """
        needs_asyncio(at_all=True)
        await self._lifespan.enter()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._lifespan.leave()

    @property
    def refused(self) -> Counter[str]:
        """How many cards and records were not what they should be, by reason."""
        return self.reporter.refused

    @property
    def near(self) -> Near | None:
        """The sessions that this process keeps in memory; None: it keeps none.

        `near.hits` and `near.misses` count requests, `len(near)` is how many sessions there are, and `near.bytes` what
        they take, about.
        """
        return self._committer.registry.store.near

    @property
    def dropped_events(self) -> int:
        """How many events an `async def` of `on_event` was not told, because too many waited or the app ended."""
        return self.reporter.deliveries.dropped

    @property
    def registry(self) -> Registry:
        """The sessions in the store."""
        return self._committer.registry

    # --- for Roomkey's own adaptors -------------------------------------------------------------------------------

    @property
    def live(self) -> Live | None:
        """Tells what is open when its session ends; None: `live` is off."""
        return self._committer.live

    async def load_raw(self, headers: RawHeaders, scope: Mapping[str, Any]) -> Session:
        """As `load`, for what `raw_request` returns."""
        answer = self.begin(headers, scope)
        session = answer if isinstance(answer, Session) else await answer
        session._sent, session._is_https = headers, scope.get("scheme") in HTTPS
        return session

    @property
    def may_wait(self) -> bool:
        return self._committer.may_wait

    def commit_now(
        self, session: Session, headers: RawHeaders, status: int, can_set_cookie: bool | None
    ) -> Coroutine[Any, Any, None] | None:
        """As `commit`, in place. None: there was nothing to ask of the store. A coroutine: it does all of it."""
        check_session(session, self._loader, "commit")
        if can_set_cookie is None:
            can_set_cookie = not session._has_started
        carries = SEVERAL if can_set_cookie else NONE
        if not session._is_quiet():
            return self._commit(session, headers, status, carries)
        self._go_out(session, headers, carries)
        return None

    async def _commit(self, session: Session, headers: RawHeaders, status: int, carries: Carries) -> None:
        if status > 500 and self.transaction(session).trouble is not None:
            self.abandon(session)  # the handler was told that the store is unavailable, and this is the answer to that
        try:
            await self.respond(session, headers, status, carries)
        except StoreUnavailable:
            self.abandon(session)
            raise
        self.transaction(session).tell_lost()

    def _begin_first(self, headers: RawHeaders, scope: Mapping[str, Any]) -> Session | Coroutine[Any, Any, Session]:
        """As `begin`, until one request has shown that Roomkey can work here. Raises ConfigurationError."""
        needs_asyncio()
        self.begin = self._begin_here
        return self.begin(headers, scope)

    def transaction(self, session: Session) -> Transaction:
        """Return the transaction of a session that this manager loaded. Raises ConfigurationError for any other."""
        if session._origin is not self._loader:
            session._attached()  # raises where it belongs to no request
            raise ConfigurationError("the session was loaded by another SessionManager: commit it there")
        return self._loader.transaction_of(session)

    def card_of(self, session: Session) -> str | None:
        """Return the signed cookie value that opens a session: a credential, for frameworks whose apps ask for it.

        None: the session is not saved, another response carries its card, or it lies in the cookie.
        """
        at, loader = session._at, self._loader
        if not at.exists or at.session_id is None or not isinstance(loader, StoreLoader):
            return None
        return loader.keyring.sign(at.session_id).decode("ascii")

    def is_own(self, session: object) -> bool:
        """Whether `session` came from a manager with the same cookie or header: of an outer middleware, say."""
        # Not `isinstance`: it asks the object, and a session of starsessions' that is not loaded raises then.
        origin = getattr(session, "_origin", None) if issubclass(type(session), Session) else None
        return isinstance(origin, Loader) and origin.committer.config.carrier == self.config.carrier

    async def respond(
        self, session: Session, headers: RawHeaders, status: int | None, carries: Carries, *, is_error: bool = False
    ) -> None:
        """As `commit`, in place, with what the response can carry."""
        work = self.respond_now(session, headers, status, carries, is_error=is_error)
        if work is not None:
            await work

    def respond_now(
        self, session: Session, headers: RawHeaders, status: int | None, carries: Carries, *, is_error: bool = False
    ) -> Coroutine[Any, Any, None] | None:
        """As `respond`. None: it is done. A coroutine: it does the rest."""
        if not session._is_quiet():
            return self.save_now(session, headers, status, carries, is_error=is_error)
        self._go_out(session, headers, carries)
        return None

    def save_now(
        self, session: Session, headers: RawHeaders, status: int | None, carries: Carries, *, is_error: bool = False
    ) -> Coroutine[Any, Any, None] | None:
        """As `respond_now`, for a session that is not quiet."""
        transaction = self.transaction(session)
        transaction.reply.carries = carries
        failing = is_error or (status is not None and status >= 500)
        work = transaction.respond_now(status, is_error=failing)
        if work is not None:
            return self._respond(work, session, headers, carries)
        self._go_out(session, headers, carries)
        return None

    async def _respond(
        self, work: Coroutine[Any, Any, None], session: Session, headers: RawHeaders, carries: Carries
    ) -> None:
        await work
        self._go_out(session, headers, carries)

    def _go_out(self, session: Session, headers: RawHeaders, carries: Carries) -> None:
        if carries is not NONE or not session._has_started:
            self.outgoing.write(session, headers)
        self.start(session)

    def let_go(self, session: Session) -> None:
        """Take a session and its transaction apart once the request is over, so that no cycle is left to be found.

        A task that goes on after the request gets another transaction when it needs one.
        """
        transaction = session._transaction
        if isinstance(transaction, Transaction) and transaction.can_go:
            session._transaction = None

    def doubt(self, session: Session) -> None:
        """Note that the request failed after its response had started: a save that was not answered is not repeated."""
        self.transaction(session).reply.saves = False

    def start(self, session: Session) -> None:
        """Note that the response has started: it carries no more cookies."""
        session._has_started = True
        if isinstance(session._transaction, Transaction):
            session._transaction.reply.close()
