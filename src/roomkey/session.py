"""Session: the dict that a handler holds.

It knows what the handler did to it and asks its `Visit` (`roomkey.lifecycle`) for everything that needs the store.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol, SupportsIndex

from roomkey.errors import LoginTooOld, SessionEnded, StoreUnavailable
from roomkey.wire import codec

if TYPE_CHECKING:
    from roomkey.users import Sessions

__all__ = ["AS_IT_IS", "CSRF", "FLASHES", "MISSING", "NOTHING", "Asked", "Change", "Session", "drop_token"]

FLASHES = "_flashes"  # the session's key for messages that wait to be shown
CSRF = "_csrf"  # the session's key for a user and the secrets that `roomkey.csrf` made for them; rotates with the ID
_LONGEST = 1e11  # seconds
AS_IT_IS: Final = -1.0  # no lifetime was asked for


MISSING = b""  # in the place of a value's fingerprint: the key was not there


class Change(NamedTuple):
    """One call of `Session.change`, kept so that it can run again on a fresh value."""

    key: str
    function: Callable[[Any], Any]
    default: Any
    before: bytes | None  # fingerprint of the value that `function` got; None: it is none that a session keeps
    after: bytes | None  # of the value that it returned

    def run(self, value: Any) -> Any:
        """Return the new value; raises TypeError where `function` gives none."""
        value = self.function(value)
        if value is None:
            raise TypeError(f"change: the function for {self.key!r} returned None; it has to return the new value")
        return value


class Asked(NamedTuple):
    """What a handler asked of its session that the content does not show."""

    rotate: float | None = None  # seconds of grace; None: no rotation was asked for
    ended: bool = False  # by `invalidate`
    cleared: bool = False  # by `clear`: empty all the same when it is saved, it was a log-out
    lifetime: float | None = AS_IT_IS  # seconds; None: the configuration's
    reauthenticated: bool = False
    changes: tuple[Change, ...] = ()
    refused: Exception | None = None  # by a function of `change` that ran again: for who saves next to hear

    @property
    def needs_saving(self) -> bool:
        """Whether there is something to save, be the content as it was or not."""
        return (
            self.rotate is not None or self.ended or self.cleared or self.lifetime != AS_IT_IS or self.reauthenticated
        )

    def then(self, later: Asked) -> Asked:
        """Return what was asked, and what was asked after it."""
        return Asked(
            self.rotate if later.rotate is None else later.rotate,
            self.ended or later.ended,
            self.cleared or later.cleared,
            self.lifetime if later.lifetime == AS_IT_IS else later.lifetime,
            self.reauthenticated or later.reauthenticated,
            later.changes if later.cleared else self.changes + later.changes,
            later.refused if later.cleared else self.refused or later.refused,
        )


NOTHING = Asked()


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

    unavailable: StoreUnavailable | None

    async def save(self) -> None: ...
    async def refresh(self) -> None: ...


class Session(dict[str, Any]):
    """The session of one request: a dict with string keys, kept on the server.

    Everything that works on a dict works on it; changes deep inside values count. It is saved when the response
    starts. See `roomkey.wire.codec` for the types that it keeps.
    """

    # Class attributes, so that the session of a request that does not touch it costs one allocation.
    _accessed = False
    _asked = NOTHING
    _put: set[str] | None = None  # keys that were assigned since it was last saved; None: no key
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
        self._accessed = True
        dict.pop(self, CSRF, None)
        self._asked = self._asked._replace(rotate=float(grace))

    def invalidate(self) -> None:
        """End the session: its data is gone, its store entry is deleted and its cookie is taken back.

        What is put into the session afterwards, in the same request, starts a new one with a new ID.
        """
        self.clear()
        self._asked = self._asked._replace(ended=True)

    def change(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """Read, modify and write one key, so that no concurrent request can undo it.

        Args:
            key: which one.
            function: takes the value, returns the new one. Runs again, on the fresh value, when another request saved
                first: it must have no effect but its result.
            default: what `function` gets (a copy of it) when the key is missing. Give it here: a key that this request
                has also assigned is not changed but keeps what was assigned.

        Returns:
            The new value, as far as this request knows; it may differ from what is saved in the end.

        Raises:
            TypeError: `function` returned None, as one does that alters its argument and forgets to return it.
        """
        self._accessed = True
        if dict.__contains__(self, key):
            value = dict.__getitem__(self, key)
            before = codec.fingerprint(value)
        else:
            value, before = copy.deepcopy(default), MISSING
        change = Change(key, function, default, before, None)
        value = change.run(value)
        change = change._replace(after=codec.fingerprint(value))
        self._asked = self._asked._replace(changes=(*self._asked.changes, change))
        dict.__setitem__(self, key, value)
        return value

    def remember(self, seconds: float | None) -> None:
        """Keep this session for another time than `max_age` after its last use: "keep me signed in".

        Call it at log-in. The cookie then outlives the browser, also with `persistent=False`; `absolute_timeout` caps
        it all the same. A change of user forgets it. A shorter time than before gives the session a new ID.

        Args:
            seconds: how long it lives after it was last used; None: `max_age` again.

        Raises:
            ValueError: `seconds` is not a number above 0, or more than 3,000 years.
        """
        if seconds is not None and not (_is_number(seconds) and 0 < seconds < _LONGEST):
            raise ValueError(f"remember: seconds is {seconds!r}; it takes a number above 0, or None")
        self._accessed = True
        self._asked = self._asked._replace(lifetime=None if seconds is None else float(seconds))

    @property
    def authenticated_at(self) -> dt.datetime | None:
        """When the user last logged in (aware, UTC); None: nobody is logged in, or it was in another library."""
        self._accessed = True
        moment = self._attached().authenticated_at
        return None if moment is None else dt.datetime.fromtimestamp(moment, dt.UTC)

    def reauthenticated(self) -> None:
        """Say that the same user has just proved who they are again; the session gets a new ID (OWASP ASVS 7.2.4)."""
        self._accessed = True
        dict.pop(self, CSRF, None)
        self._asked = self._asked._replace(reauthenticated=True)

    def require_recent(self, seconds: float) -> None:
        """Refuse a dangerous step when the log-in is too long ago (OWASP ASVS 7.5.1).

        Args:
            seconds: how long ago it may be.

        Raises:
            LoginTooOld: it is longer ago, or nobody is logged in. Ask for the password, then call `reauthenticated`.
            ValueError: `seconds` is not a number.
        """
        if not _is_number(seconds):
            raise ValueError(f"require_recent: seconds is {seconds!r}; it takes a number")
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
        self.change(FLASHES, lambda waiting: [*waiting, (category, message)], default=[])

    async def flashes(self) -> list[tuple[str, Any]]:
        """Take the messages that wait, as pairs of category and message; each is handed out once and only once.

        They are removed from the store before this returns: of two requests at once, one shows them. Those that other
        requests leave meanwhile wait for the next page. Call it before the response starts.

        Raises:
            StoreUnavailable: the store did not do it; the messages still wait.
        """
        self._accessed = True
        seen = list(dict.get(self, FLASHES) or ())
        if not seen:
            return []
        taken: list[tuple[str, Any]] = []

        def take(waiting: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
            # Runs again on what is fresh: what the swap that won has found, counts. And no more than what was there to
            # see: in a session that somebody has logged into meanwhile, the others are for them.
            taken.clear()
            mine, left = list(seen), []
            for message in waiting:
                if message in mine:
                    mine.remove(message)
                    taken.append(message)
                else:
                    left.append(message)
            return left

        self.change(FLASHES, take, default=[])
        try:
            await self._attached().save()
        except SessionEnded:
            return []
        except BaseException:
            if dict.__contains__(self, FLASHES):  # else another task has logged out meanwhile
                self.change(FLASHES, lambda waiting: [*taken, *waiting], default=[])
            raise
        return taken if dict.__contains__(self, FLASHES) else []

    @property
    def sessions(self) -> Sessions:
        """The sessions of users, to list and to revoke: `await request.session.sessions.of(user)`."""
        self._accessed = True
        return self._attached().sessions

    async def save(self) -> None:
        """Save now: for WebSockets, streams and long jobs. Afterwards the session holds what was saved.

        Where somebody has logged in meanwhile, the changes go into their session and this one shows nothing of it.

        Raises:
            SessionDataError: a value cannot be stored.
            SessionEnded: the session was ended meanwhile.
            ResponseStarted: it needs a cookie that can no longer be sent.
            StoreUnavailable: the store did not say that it did it, and may have all the same. Let this error out of the
                handler, which is then a 503: to save again may run the functions of `change` a second time.
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
        self._accessed = True
        return self._attached().handle

    @property
    def is_new(self) -> bool:
        """Whether this request found no session: nothing was loaded."""
        self._accessed = True
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
        self._accessed = True
        return dt.datetime.fromtimestamp(self._attached().created_at, dt.UTC)

    @property
    def expires_at(self) -> dt.datetime:
        """When it ends if nobody uses it any more (aware, UTC)."""
        self._accessed = True
        return dt.datetime.fromtimestamp(self._attached().expires_at, dt.UTC)

    def mark_accessed(self) -> None:
        """Count the session as used. Starlette calls this whenever a handler says `request.session`."""
        self._accessed = True

    def _attached(self) -> Visit:
        if self._visit is None:
            raise RuntimeError("this Session belongs to no request; take it from request.session")
        return self._visit

    def _set_content(self, content: Mapping[str, Any]) -> None:
        """Put `content` in the place of all that is in the session; nothing empties it, which is a log-out."""
        if not content:
            self.clear()
            return
        self._accessed = True
        self._asked = self._asked._replace(changes=(), refused=None)
        super().clear()
        self.update(content)

    def _plain(self) -> dict[str, Any]:
        """Return a plain copy without counting as used. (`dict.copy` would go through `__iter__`, 20 times slower.)"""
        return dict(dict.items(self))

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
        self.update(other)
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
        if self._put is None:
            self._put = {key}
        else:
            self._put.add(key)

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
        if key not in self:
            self[key] = default
        return super().__getitem__(key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._accessed = True
        given = dict(*args, **kwargs)
        super().update(given)
        self._put = (self._put or set()).union(given)

    def clear(self) -> None:
        """Empty the session; if it is still empty when the request ends, it ends.

        A user who is put into it after this has logged in, also the one who was there before. Deleting the last key
        ends the session too, unless another request put something into it meanwhile.
        """
        self._accessed = True
        self._asked = self._asked._replace(cleared=True, changes=(), refused=None)
        super().clear()


def drop_token(data: dict[str, Any], user: str | None) -> None:
    """Forget the secrets of `roomkey.csrf`, unless made for this user: tokens do not outlive a change."""
    kept = dict.get(data, CSRF)
    if kept is not None and not (isinstance(kept, list) and kept and kept[0] == user):
        dict.pop(data, CSRF)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
