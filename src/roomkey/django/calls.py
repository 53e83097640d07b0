"""The session manager's calls for code that is written once, as a coroutine, and runs in blocking code too."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from asgiref.sync import sync_to_async

from roomkey.core.nearby import ask_store, is_near
from roomkey.core.session import Session
from roomkey.manager import SessionManager
from roomkey.request import Request

__all__ = ["Awaiting", "Blocking", "Calls", "InThread", "at_once"]

_Answer = TypeVar("_Answer")
Headers = list[tuple[str, str]]


class Calls(Protocol):
    """What a coroutine asks of the session manager. `ask` has a session be what the store says: see `ask_store`."""

    async def load(self, request: Request) -> Session: ...
    async def ask(self, session: Session) -> None: ...
    async def save(self, session: Session) -> None: ...
    async def commit(
        self, session: Session, *, status: int, headers: Headers, can_set_cookie: bool | None = None
    ) -> Headers: ...


class Blocking:
    """Each call holds up its thread. A coroutine that makes no others never waits: `at_once` runs it."""

    def __init__(self, manager: SessionManager) -> None:
        self._sync = manager.sync

    async def load(self, request: Request) -> Session:
        return self._sync.load(request)

    async def ask(self, session: Session) -> None:
        if is_near(session):
            self._sync.run(ask_store(session))

    async def save(self, session: Session) -> None:
        self._sync.save(session)

    async def commit(
        self, session: Session, *, status: int, headers: Headers, can_set_cookie: bool | None = None
    ) -> Headers:
        return self._sync.commit(session, status=status, headers=headers, can_set_cookie=can_set_cookie, raw=False)


class InThread:
    """For an `async def` view under WSGI: its event loop ends with the request, and connections would end with it."""

    def __init__(self, manager: SessionManager) -> None:
        self._sync = manager.sync

    async def load(self, request: Request) -> Session:
        session: Session = await sync_to_async(self._sync.load)(request)
        return session

    async def ask(self, session: Session) -> None:
        if is_near(session):
            await sync_to_async(self._sync.run)(ask_store(session))

    async def save(self, session: Session) -> None:
        await sync_to_async(self._sync.save)(session)

    async def commit(
        self, session: Session, *, status: int, headers: Headers, can_set_cookie: bool | None = None
    ) -> Headers:
        commit = sync_to_async(self._sync.commit)
        made: Headers = await commit(session, status=status, headers=headers, can_set_cookie=can_set_cookie, raw=False)
        return made


class Awaiting:
    """Each call is awaited in the event loop that runs."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    async def load(self, request: Request) -> Session:
        return await self._manager.load(request)

    async def ask(self, session: Session) -> None:
        await ask_store(session)

    async def save(self, session: Session) -> None:
        await session.save()

    async def commit(
        self, session: Session, *, status: int, headers: Headers, can_set_cookie: bool | None = None
    ) -> Headers:
        return await self._manager.commit(
            session, status=status, headers=headers, can_set_cookie=can_set_cookie, raw=False
        )


def at_once(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Run a coroutine that waits for nothing, and return what it returns. Raises RuntimeError where it waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        answer: _Answer = stop.value
        return answer
    work.close()
    raise RuntimeError("a coroutine that was to wait for nothing waits")
