"""Session: the dict that a handler holds.

It knows what the handler did to it and asks its `Visit` (`roomkey.lifecycle`) for everything that needs the store.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol, SupportsIndex

from roomkey.errors import LoginTooOld, SessionEnded

if TYPE_CHECKING:
    from roomkey.users import Sessions

__all__ = ["AS_IT_IS", "CSRF", "Change", "Session"]

_NOT_GIVEN = object()
_FLASHES = "_flashes"  # the session's key for messages that wait to be shown
CSRF = "_csrf"  # the session's key for the secret of `roomkey.csrf`, and for whom it was made; rotates with the ID
_LONGEST = 1e11  # seconds
AS_IT_IS: Final = -1.0  # no lifetime was asked for


class Change(NamedTuple):
    """One call of `Session.change`, kept so that it can run again on a fresh value."""

    key: str
    function: Callable[[Any], Any]
    default: Any


class Visit(Protocol):
    """What a session asks of the request that it belongs to."""

    @property
    def handle(self) -> str: ...
    @property
    def created_at(self) -> float: ...  # Unix seconds
    @property
    def expires_at(self) -> float: ...  # Unix seconds
    @property
    def is_new(self) -> bool: ...
    @property
    def authenticated_at(self) -> float | None: ...  # Unix seconds
    @property
    def sessions(self) -> Sessions: ...
    @property
    def user_key(self) -> str | None: ...
    def now(self) -> float: ...  # Unix seconds
    def is_modified(self) -> bool: ...
    async def save(self) -> None: ...
    async def refresh(self) -> None: ...


class Session(dict[str, Any]):
    """The session of one request: a dict with string keys, kept on the server.

    Everything that works on a dict works on it; changes deep inside values count. It is saved when the response
    starts. See `roomkey.codec` for the types that it keeps.
    """

    # Class attributes, so that the session of a request that does not touch it costs one allocation.
    _accessed = False
    _asked = False  # whether something was asked for that the content does not show: the four below
    _ended = False
    _rotate: float | None = None  # seconds of grace; None: no rotation was asked for
    _changes: tuple[Change, ...] = ()
    _lifetime: float | None = AS_IT_IS  # seconds; None: the configuration's
    _reauthenticated = False
    _cleared = False  # by clear(): empty all the same when the request ends, it was a log-out
    _visit: Visit | None = None

    # --- what a handler calls -------------------------------------------------------------------------------------

    def rotate(self, grace: float = 0) -> None:
        """Give the session a new ID, from this response on; the old one is dead.

        Args:
            grace: seconds for which requests that still carry the old ID are served. For rotation by the clock only:
                where rights change (log-in), the old ID must die at once (OWASP ASVS 7.2.4).

        Raises:
            ValueError: `grace` is negative or not a finite number.
        """
        if not 0 <= grace < float("inf"):
            raise ValueError(f"rotate: grace is {grace!r}; it takes seconds, 0 or more")
        self._accessed = self._asked = True
        dict.pop(self, CSRF, None)
        self._rotate = float(grace)

    def invalidate(self) -> None:
        """End the session: its data is gone, its store entry is deleted and its cookie is taken back.

        What is put into the session afterwards, in the same request, starts a new one with a new ID.
        """
        self.clear()
        self._asked = self._ended = True

    def change(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """Read, modify and write one key, so that no concurrent request can undo it.

        Args:
            key: which one.
            function: takes the value, returns the new one. Runs again, on the fresh value, when another request saved
                first: it must have no effect but its result.
            default: what `function` gets when the key is missing.

        Returns:
            The new value, as far as this request knows; it may differ from what is saved in the end.
        """
        self._accessed = True
        value = function(dict.get(self, key, _NOT_GIVEN) if key in self else copy.deepcopy(default))
        self._changes = (*self._changes, Change(key, function, default))
        dict.__setitem__(self, key, value)
        return value

    def remember(self, seconds: float | None) -> None:
        """Keep this session for another time than `max_age` after its last use: "keep me signed in".

        Call it at log-in. The cookie then outlives the browser, also with `persistent=False`; `absolute_timeout` caps
        it all the same. A change of user forgets it.

        Args:
            seconds: how long it lives after it was last used; None: `max_age` again.

        Raises:
            ValueError: `seconds` is not a number above 0, or more than 3,000 years.
        """
        if seconds is not None and not 0 < seconds < _LONGEST:
            raise ValueError(f"remember: seconds is {seconds!r}; it takes a number above 0, or None")
        self._accessed = self._asked = True
        self._lifetime = None if seconds is None else float(seconds)

    @property
    def authenticated_at(self) -> dt.datetime | None:
        """When the user last logged in (aware, UTC); None: nobody is logged in, or it was in another library."""
        moment = self._attached().authenticated_at
        return None if moment is None else dt.datetime.fromtimestamp(moment, dt.UTC)

    def reauthenticated(self) -> None:
        """Say that the same user has just proved who they are again; the session gets a new ID (OWASP ASVS 7.2.4)."""
        self._accessed = self._asked = self._reauthenticated = True
        dict.pop(self, CSRF, None)

    def require_recent(self, seconds: float) -> None:
        """Refuse a dangerous step when the log-in is too long ago (OWASP ASVS 7.5.1).

        Args:
            seconds: how long ago it may be.

        Raises:
            LoginTooOld: it is longer ago, or nobody is logged in. Ask for the password, then call `reauthenticated`.
        """
        self._accessed = True
        moment = self._attached().authenticated_at
        if moment is None or self._attached().now() - moment > seconds:
            raise LoginTooOld("this step needs a recent log-in; ask the user to log in again")

    def flash(self, message: Any, category: str = "info") -> None:
        """Leave a message for the user's next page.

        Args:
            message: anything that a session keeps.
            category: a word for the page, such as "info" or "error".
        """
        self.change(_FLASHES, lambda waiting: [*waiting, (category, message)], default=[])

    async def flashes(self) -> list[tuple[str, Any]]:
        """Take the messages that wait, as pairs of category and message; each is handed out once and only once.

        They are removed from the store before this returns: of two requests at once, one shows them. Call it before
        the response starts.

        Raises:
            StoreUnavailable: the store did not do it; the messages still wait.
        """
        self._accessed = True
        if not dict.get(self, _FLASHES):
            return []
        taken: list[tuple[str, Any]] = []

        def take(waiting: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
            taken[:] = waiting  # runs again on what is fresh: what the swap that won has found, counts
            return []

        self.change(_FLASHES, take, default=[])
        try:
            await self._attached().save()
        except SessionEnded:
            return []
        return taken

    @property
    def sessions(self) -> Sessions:
        """The sessions of users, to list and to revoke: `await request.session.sessions.of(user)`."""
        return self._attached().sessions

    async def save(self) -> None:
        """Save now: for WebSockets, streams and long jobs. Afterwards the session holds what was saved.

        Where somebody has logged in meanwhile, the changes go into their session and this one shows nothing of it.

        Raises:
            SessionDataError: a value cannot be stored.
            SessionEnded: the session was ended meanwhile.
            ResponseStarted: it needs a cookie that can no longer be sent.
            StoreUnavailable: the store did not do it.
        """
        await self._attached().save()

    async def refresh(self) -> None:
        """Take in what other requests saved since; this request's own changes stay on top.

        Raises:
            SessionEnded: the session was ended meanwhile, or somebody has logged in.
            StoreUnavailable: the store did not answer.
        """
        self._accessed = True
        await self._attached().refresh()

    @property
    def handle(self) -> str:
        """The public name of the session: safe in logs and URLs, useless as a credential. Empty until it is saved."""
        return self._attached().handle

    @property
    def is_new(self) -> bool:
        """Whether this request found no session: nothing was loaded."""
        return self._attached().is_new

    @property
    def accessed(self) -> bool:
        """Whether anything read or wrote the session in this request."""
        return self._accessed

    @property
    def modified(self) -> bool:
        """Whether the session differs from what was loaded, or was asked to rotate or end."""
        return self._attached().is_modified()

    @property
    def created_at(self) -> dt.datetime:
        """When the session began (aware, UTC); for one not saved yet, when the request did."""
        return dt.datetime.fromtimestamp(self._attached().created_at, dt.UTC)

    @property
    def expires_at(self) -> dt.datetime:
        """When it ends if nobody uses it any more (aware, UTC)."""
        return dt.datetime.fromtimestamp(self._attached().expires_at, dt.UTC)

    def mark_accessed(self) -> None:
        """Count the session as used. Starlette calls this whenever a handler says `request.session`."""
        self._accessed = True

    def _attached(self) -> Visit:
        if self._visit is None:
            raise RuntimeError("this Session belongs to no request; take it from request.session")
        return self._visit

    def _plain(self) -> dict[str, Any]:
        """Return a plain copy without counting as used. (`dict.copy` would go through `__iter__`, 20 times slower.)"""
        return dict(dict.items(self))

    def _drop_token(self, user: str | None) -> None:
        """Forget the secret of `roomkey.csrf`, unless it was made for this user: tokens do not outlive a change."""
        kept = dict.get(self, CSRF)
        if kept is not None and not (isinstance(kept, list) and len(kept) == 2 and kept[1] == user):
            dict.pop(self, CSRF)

    # --- dict, so that use is seen --------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        self._accessed = True
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._accessed = True
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._accessed = True
        return super().__contains__(key)

    def __len__(self) -> int:
        self._accessed = True
        return super().__len__()

    def __iter__(self) -> Iterator[str]:
        self._accessed = True
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._accessed = True
        return super().__reversed__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]  # dict_keys is a KeysView
        self._accessed = True
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self._accessed = True
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self._accessed = True
        return super().items()

    def __eq__(self, other: object) -> bool:
        self._accessed = True
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self._accessed = True
        return super().__ne__(other)

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        self._accessed = True
        return self._plain() | other

    def __ror__(self, other: Any) -> Any:
        self._accessed = True
        return other | self._plain()

    def __ior__(self, other: Any) -> Session:  # type: ignore[override]
        self._accessed = True
        super().update(other)
        return self

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same content."""
        self._accessed = True
        return self._plain()

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Session cannot be pickled; pickle session.copy() instead")

    def __repr__(self) -> str:
        # Session data does not belong into logs; `session.copy()` shows it.
        return f"<Session with {dict.__len__(self)} key(s)>"

    def __setitem__(self, key: str, value: Any) -> None:
        self._accessed = True
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._accessed = True
        super().__delitem__(key)

    def pop(self, *args: Any) -> Any:
        self._accessed = True
        return super().pop(*args)

    def popitem(self) -> tuple[str, Any]:
        self._accessed = True
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        self._accessed = True
        return super().setdefault(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._accessed = True
        super().update(*args, **kwargs)

    def clear(self) -> None:
        """Empty the session; if it is still empty when the request ends, it ends.

        Deleting the last key ends it too, unless another request put something into it meanwhile.
        """
        self._accessed = self._cleared = True
        self._changes = ()
        super().clear()
