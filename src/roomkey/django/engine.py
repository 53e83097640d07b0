"""SessionStore: what `request.session` is. It has the methods of Django's sessions, around a `roomkey.Session`.

Django's class gives each method twice, blocking and awaited. Here both run one coroutine, with other `Calls`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from django.contrib.sessions.backends.base import SessionBase, UpdateError

from roomkey.core.session import Session
from roomkey.django.calls import Awaiting, Blocking, Calls, InThread, at_once
from roomkey.django.expiry import hold, settle
from roomkey.django.methods import RoomkeyMethods
from roomkey.django.settings import get_manager
from roomkey.errors import SessionEnded, StoreUnavailable
from roomkey.request import Request

if TYPE_CHECKING:
    from roomkey.core.ports import Transaction
    from roomkey.manager import SessionManager

__all__ = ["SessionStore"]

_CARD = re.compile(r"[A-Za-z0-9_-]+")
_KEPT = "_roomkey_kept"  # is in a session that the app saved without content: an empty one is no session
_PURGE_BATCH = 1000  # records
_ENDED = "the session was ended while this request ran, or somebody has logged into it; nothing was saved"


class SessionStore(RoomkeyMethods, SessionBase):  # type: ignore[misc]  # Django has no types of its own
    """A Django session that Roomkey keeps. It is loaded when it is first used.

    `session_key` is the signed cookie value, and a credential, as in all of Django: do not log it and do not store it.
    `handle` is the public name.

    Args:
        session_key: the value of the session cookie; None: a new session.
        request: the request that brought it; None: there is only the key.
        in_thread: whether awaited calls block a thread meanwhile, as under WSGI.

    Raises:
        ConfigurationError: a setting is wrong.

    Example:
        >>> from django.http import HttpResponse
        >>> def visit(request):
        ...     visits = request.session.change("visits", lambda number: number + 1, default=0)
        ...     return HttpResponse(f"{visits} visits of {request.session.handle}")
    """

    accessed: bool  # whether the session was used in this request

    def __init__(
        self, session_key: str | None = None, *, request: Request | None = None, in_thread: bool = False
    ) -> None:
        self.manager: SessionManager = get_manager()
        self._is_cycled = False  # whether it owes the app a new key, since `cycle_key`
        self._is_deleted = False  # whether `delete` has ended the session of its own key
        self._is_marked = False  # whether `modified` was set since the last save
        self._is_handed_out = False  # whether the app has the session itself, as a view of `typed` say
        self._request = request
        self._blocking: Calls = Blocking(self.manager)
        self._awaiting: Calls = InThread(self.manager) if in_thread else Awaiting(self.manager)
        self.outage: StoreUnavailable | None = None  # why the request's session was not loaded; None: nothing is wrong
        super().__init__(session_key)
        self._given = self._key  # the key that came with the request

    # --- what Django's class asks of an engine ----------------------------------------------------------------------

    def load(self) -> Session:
        """Read the session from the store. What this object holds stays as it is.

        Raises:
            StoreUnavailable: whether there is a session cannot be known.
        """
        return at_once(self._load(self._blocking))

    async def aload(self) -> Session:
        """As `load`."""
        return await self._load(self._awaiting)

    def save(self, must_create: bool = False) -> None:
        """Save now. The key may be another one afterwards: after a log-in, say.

        Args:
            must_create: save it as a new session, under a new key.

        Raises:
            UpdateError: the session was ended meanwhile, also the one whose content is saved as a new one.
            SessionDataError: a value cannot be stored.
            StoreUnavailable: the store did not acknowledge.
        """
        at_once(self._save(self._blocking, must_create))

    async def asave(self, must_create: bool = False) -> None:
        """As `save`."""
        await self._save(self._awaiting, must_create)

    def create(self) -> None:
        """Save the content as a new session, under a new key. Raises what `save` raises."""
        self.save(must_create=True)

    async def acreate(self) -> None:
        """As `create`."""
        await self.asave(must_create=True)

    def exists(self, session_key: str | None) -> bool:
        """Whether a key opens a session. Raises StoreUnavailable."""
        return at_once(self._exists(self._blocking, session_key))

    async def aexists(self, session_key: str | None) -> bool:
        """As `exists`."""
        return await self._exists(self._awaiting, session_key)

    def delete(self, session_key: str | None = None) -> None:
        """End the session of a key.

        Args:
            session_key: the key; None: this session's.

        Raises:
            StoreUnavailable: whether it has ended cannot be known.
        """
        at_once(self._delete(self._blocking, session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """As `delete`."""
        await self._delete(self._awaiting, session_key)

    def flush(self) -> None:
        """Log out: the session ends at once, in the store too. What is put in afterwards begins another one.

        Raises:
            StoreUnavailable: whether it has ended cannot be known.
        """
        at_once(self._flush(self._blocking))

    async def aflush(self) -> None:
        """As `flush`."""
        await self._flush(self._awaiting)

    def cycle_key(self) -> None:
        """Give the session a new key, for the same data. The old one is dead once the session is saved."""
        self._cycle(self._get_session())

    async def acycle_key(self) -> None:
        """As `cycle_key`."""
        self._cycle(await self._aget_session())

    def clear(self) -> None:
        """Empty the session. It ends with this response, unless something is put into it."""
        self._get_session().clear()
        self.modified = True

    @classmethod
    def clear_expired(cls) -> None:
        """Remove expired sessions from the store: `manage.py clearsessions`. Raises StoreUnavailable."""
        manager = get_manager()
        while manager.sync.run(manager.registry.store.purge(_PURGE_BATCH)) >= _PURGE_BATCH:
            pass

    @classmethod
    async def aclear_expired(cls) -> None:
        """As `clear_expired`."""
        while await get_manager().registry.store.purge(_PURGE_BATCH) >= _PURGE_BATCH:
            pass

    # --- what Django's middleware and apps ask ----------------------------------------------------------------------

    @property
    def session_key(self) -> str | None:
        """The signed cookie value, which opens the session. None: it is not saved. After `cycle_key`, it saves first.

        Raises:
            UpdateError, SessionDataError, StoreUnavailable: as `save` does, after `cycle_key` alone.
        """
        if self._is_cycled:
            self.save()
        return self._key

    @property
    def modified(self) -> bool:
        """Whether the session is to be saved, as in Django. Changes deep inside values are saved without it."""
        session = self.loaded if self._is_handed_out else None  # it may be changed past the methods of this class
        return self._modified or (session is not None and session._changed)

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = self._is_marked = value
        self._is_handed_out = self._is_handed_out and value

    def is_empty(self) -> bool:
        """Whether there is nothing in it. A session that was emptied is ended first, for Django takes its cookie back.

        Raises:
            StoreUnavailable: whether it has ended cannot be known.
        """
        session = self.loaded
        if session is None:
            return not self._key
        self.settle(session)
        is_empty = dict.__len__(session) == 0
        if is_empty and session._at.exists:
            self.flush()
        return is_empty

    def _as_session(self) -> Session:
        """Return the session itself, for `session_of` and `typed`."""
        self._is_handed_out = True
        return self._get_session()

    # --- what the middleware asks -----------------------------------------------------------------------------------

    @property
    def loaded(self) -> Session | None:
        """The session, if it was used."""
        session: Session | None = self.__dict__.get("_session_cache")
        return session

    def settle(self, session: Session) -> None:
        """Have the session that is about to be committed live as long as it is to, and be saved if it is to."""
        if self._is_marked and not (session._changed or session._shared):
            session.mark_modified()
        self._is_marked = False
        settle(self.manager, session)

    def note_saved(self, session: Session) -> None:
        """Take over the key of a session that was just saved."""
        self._is_cycled = self._is_deleted = self._is_marked = False
        if not session._at.exists:
            self._session_key = None
        else:
            self._session_key = self.manager.card_of(session) or self._key

    def _attached(self) -> Transaction:
        return self._get_session()._attached()  # for `revoke_all(user, keep=request.session)`

    # --- done once, for blocking and awaited calls ------------------------------------------------------------------

    @property
    def _key(self) -> str | None:
        key: str | None = self._session_key
        return key

    def _get_session(self, no_load: bool = False) -> Session:
        self.accessed = True
        session = self.loaded
        return at_once(self._open(self._blocking)) if session is None else session

    async def _aget_session(self, no_load: bool = False) -> Session:
        return await self._open(self._awaiting)

    _session = property(_get_session)

    async def _open(self, calls: Calls) -> Session:
        self.accessed = True
        session = self.loaded
        if session is None:
            session = self._session_cache = await self._load(calls)
        return session

    async def _load(self, calls: Calls) -> Session:
        if self.outage is not None:
            raise self.outage  # a request waits for the store once
        try:
            session = await calls.load(self._incoming())
        except StoreUnavailable as error:
            if self._request is not None:
                self.outage = error
            raise
        self._session_key = self.manager.card_of(session) or self._key if session._at.exists else None
        hold(self.manager, session)
        return session

    def _incoming(self) -> Request:
        """Return the request that brings the present key."""
        if self._request is not None and self._key == self._given:
            return self._request
        return self._bringing(self._key)

    def _bringing(self, key: str | None) -> Request:
        """Return a request that brings this key and no other cookie."""
        request = self._request or Request()
        sent: Any = request.headers
        headers: list[tuple[str, str]] = [(name, value) for name, value in sent if name != "cookie"]
        if key is not None and _CARD.fullmatch(key):
            headers.append(("cookie", f"{self.manager.config.session_cookie}={key}"))
        return dataclasses.replace(request, headers=headers)

    async def _save(self, calls: Calls, must_create: bool) -> None:
        origin = None  # the key of the session whose content is copied, where it is in the store
        if must_create:
            held = self.loaded
            origin = self._key if held is not None and not self._is_deleted else None
            session = await calls.load(self._bringing(None))
            session.update({} if held is None else held._plain())
            self._session_cache = session
            self.modified = True
        else:
            session = await self._open(calls)
        if dict.__len__(session) == 0 and not session._at.exists:
            session[_KEPT] = True
            self.modified = True  # Django's middleware sends the cookie only then
        self.settle(session)
        try:
            await calls.save(session)
        except SessionEnded as error:
            raise UpdateError(_ENDED) from error
        if origin is not None and not await self._is_there(calls, origin):
            await self._flush(calls)  # asked after the copy was made: a log-out before that is final
            raise UpdateError(_ENDED)
        self.note_saved(session)

    async def _exists(self, calls: Calls, key: str | None) -> bool:
        if self._is_cycled:
            await self._save(calls, must_create=False)
        return await self._is_there(calls, key)

    async def _is_there(self, calls: Calls, key: str | None) -> bool:
        """Whether the store has the session of this key."""
        session = await calls.load(self._bringing(key))
        await calls.ask(session)
        return session._at.exists

    async def _delete(self, calls: Calls, key: str | None) -> None:
        own = self._key
        if key is None:
            key = own
        if key is None:
            return
        session = await calls.load(self._bringing(key))
        if session._at.exists:
            session.invalidate()
            await calls.save(session)
        if key == own:
            self._is_deleted = True
            self._is_marked = self.modified  # to save it after this is an error

    async def _flush(self, calls: Calls) -> None:
        session = await self._open(calls)
        session.invalidate()
        await calls.save(session)
        self.note_saved(session)
        self._modified = True

    def _cycle(self, session: Session) -> None:
        if session._at.exists:
            session.rotate()
        self._is_cycled = self.modified = True
