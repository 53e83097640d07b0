"""The blocking calls of a session manager."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from roomkey.core.secure import HTTPS
from roomkey.core.session import Session
from roomkey.core.users import ANYBODYS, Asking, SessionInfo, Sessions, User, Whose
from roomkey.request import Request, raw_pairs, raw_request, text_pairs
from roomkey.sync.in_place import run_in_place
from roomkey.sync.loop_thread import LoopThread

if TYPE_CHECKING:
    from roomkey.config import SessionConfig
    from roomkey.core.committer import Committer
    from roomkey.core.registry import Registry

__all__ = ["SyncManager", "SyncSessions"]

_Answer = TypeVar("_Answer")
_Text = TypeVar("_Text", str, bytes)


class Asynchronous(Protocol):
    """The session manager whose calls these are."""

    config: SessionConfig
    carrier: bytes
    begin: Callable[[list[tuple[bytes, bytes]], Mapping[str, Any]], Session | Coroutine[Any, Any, Session]]
    _committer: Committer

    @property
    def registry(self) -> Registry: ...
    @property
    def sessions(self) -> Sessions: ...
    async def load_raw(self, headers: list[tuple[bytes, bytes]], scope: Mapping[str, Any]) -> Session: ...
    def commit_now(
        self, session: Session, headers: list[tuple[bytes, bytes]], status: int, can_set_cookie: bool | None
    ) -> Coroutine[Any, Any, None] | None: ...
    def abandon(self, session: Session) -> None: ...


class HasSessions(Protocol):
    """A session that asks: a `Session`, or what a framework has around one."""

    @property
    def sessions(self) -> Sessions: ...


class SyncManager:
    """The blocking calls of a `SessionManager`, from any thread: `manager.sync`.

    A session's own calls that are awaited elsewhere have a blocking form here: `manager.sync.flashes(session)`.

    Args:
        manager: does the work.

    Example:
        >>> from roomkey import SessionManager
        >>> manager = SessionManager(secret_key="k" * 32, store="memory://")
        >>> session = manager.sync.load(None)
        >>> session["user_id"] = 7
        >>> [name for name, _ in manager.sync.commit(session)]
        ['vary', 'cache-control', 'set-cookie']
    """

    def __init__(self, manager: Asynchronous) -> None:
        self._manager = manager
        self._is_in_place = _never_waits(manager.registry.store.store) and not manager.config.legacy
        self._loop = LoopThread(_closing(manager._committer), manager.config.store_timeout)
        # Where no event loop runs, events for an `async def` are told in the thread.
        manager._committer.reporter.deliveries.elsewhere = _soon_in(self._loop)

    def load(self, request: Request | str | bytes | None = None) -> Session:
        """As `SessionManager.load`."""
        headers, scope = raw_request(request, self._manager.carrier)
        if any(name == self._manager.carrier for name, _ in headers):
            session = self.run(self._manager.load_raw(headers, scope))
            nearby = getattr(session, "_nearby", None)
            if nearby is not None:
                session._nearby = nearby.blocking(self.run)
            return session
        # Nothing to look up: no thread is asked.
        answer = self._manager.begin(headers, scope)
        session = answer if isinstance(answer, Session) else self.run(answer)
        session._sent, session._is_https = headers, scope.get("scheme") in HTTPS
        return session

    def commit(
        self,
        session: Session,
        *,
        status: int = 200,
        headers: Iterable[tuple[_Text, _Text]] = (),
        can_set_cookie: bool | None = None,
        raw: bool | None = None,
    ) -> list[tuple[_Text, _Text]]:
        """As `SessionManager.commit`."""
        pairs, raw = raw_pairs(headers, raw)
        work = self._manager.commit_now(session, pairs, status, can_set_cookie)
        if work is not None:
            self.run(work)
        return pairs if raw else text_pairs(pairs)  # type: ignore[return-value]

    def abandon(self, session: Session) -> None:
        """As `SessionManager.abandon`."""
        self._manager.abandon(session)

    def flashes(self, session: Session) -> list[tuple[str, Any]]:
        """As `session.flashes()`."""
        return self.run(session.flashes())

    def save(self, session: Session) -> None:
        """As `session.save()`."""
        self.run(session.save())

    def refresh(self, session: Session) -> None:
        """As `session.refresh()`."""
        self.run(session.refresh())

    @property
    def sessions(self) -> SyncSessions:
        """The sessions of users, to list and to revoke: `manager.sync.sessions.of(user)`.

        Raises:
            ConfigurationError: nothing is kept on the server (`cookie://`).
        """
        return SyncSessions(self, self._manager.sessions)

    def run(self, work: Awaitable[_Answer]) -> _Answer:
        """Wait for anything that Roomkey gives you to await, and return what it returns.

        Where the store waits, it runs in the manager's own thread, and so does `on_event`.

        Raises:
            TypeError: it cannot be awaited.
            Exception: what the work raises.
        """
        if not isinstance(work, Awaitable):
            raise TypeError(f"run: got {type(work).__name__}; it takes what can be awaited, such as session.save()")
        return run_in_place(work) if self._is_in_place else self._loop.run(work)

    def close(self) -> None:
        """Close the store, and end the manager's thread. Both begin anew with the next call.

        It need not be called: the end of the process does the same.
        """
        self._loop.close()
        if self._is_in_place:
            run_in_place(self._manager.registry.store.close())


class SyncSessions:
    """The blocking calls of `roomkey.Sessions`: `manager.sync.sessions`.

    Args:
        manager: runs them.
        sessions: does the work.
    """

    def __init__(self, manager: SyncManager, sessions: Sessions) -> None:
        self._run = manager.run
        self._sessions = sessions

    def of(self, user: User, *, current: HasSessions | None = None) -> list[SessionInfo]:
        """As `Sessions.of`.

        Args:
            user: the value of `user_key`.
            current: the session that asks, which is marked in the list (`is_current`).
        """
        return self._run((self._sessions if current is None else current.sessions).of(user))

    def get(self, handle: str, *, current: Session | None = None) -> SessionInfo | None:
        """As `Sessions.get`; `current` as for `of`."""
        return self._run((self._sessions if current is None else current.sessions).get(handle))

    def revoke(self, handle: str, *, user: User | Literal[Whose.ANYBODYS] | None = ANYBODYS) -> bool:
        """As `Sessions.revoke`. No session asks: without `user` it is anybody's that ends."""
        return self._run(self._sessions.revoke(handle, user=user))

    def label(self, handle: str, label: str | None, *, user: User | Literal[Whose.ANYBODYS] | None = ANYBODYS) -> bool:
        """As `Sessions.label`."""
        return self._run(self._sessions.label(handle, label, user=user))

    def revoke_all(self, user: User, *, keep: Asking | str | None = None) -> int:
        """As `Sessions.revoke_all`."""
        return self._run(self._sessions.revoke_all(user, keep=keep))

    def end_all(self) -> None:
        """As `Sessions.end_all`."""
        self._run(self._sessions.end_all())


def _closing(committer: Committer) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return what closes a store. It does not hold the manager, which may go while its thread still runs."""

    async def close() -> None:
        await committer.finish()
        await committer.reporter.deliveries.drain()
        await committer.registry.store.close()

    return close


def _soon_in(loop: LoopThread) -> Callable[[Callable[[], None]], bool]:
    """Return what has something called in the thread. It does not hold the thread, as the manager does."""
    held = weakref.ref(loop)

    def soon(callback: Callable[[], None]) -> bool:
        there = held()
        if there is None:
            return False
        there.soon(callback)
        return True

    return soon


def _never_waits(store: object) -> bool:
    """Whether a store says that it never waits. What its class says does not count for a subclass that does more."""
    mine: dict[str, Any] = getattr(store, "__dict__", {})
    for own in (mine, *map(vars, type(store).__mro__)):
        if "never_waits" in own:
            return bool(own["never_waits"])
        if not _OPERATIONS.isdisjoint(own):
            return False
    return False


_OPERATIONS = {"load", "create", "update", "rotate", "touch", "delete", "of_user", "purge", "wipe", "open", "close"}
