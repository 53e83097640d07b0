"""Session: the dict that a handler holds.

It knows what the handler did to it. For everything that needs the store it asks its transaction
(`roomkey.core.transaction`), which is made when it is first needed.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from roomkey.core import messages
from roomkey.core.actor import Actor
from roomkey.core.intents import CSRF, MISSING, NOTHING, Change
from roomkey.core.loaded import NOWHERE, Loaded, completed
from roomkey.core.ports import Nearby, Origin, Transaction
from roomkey.core.tracked import PEEKED, TrackedDict
from roomkey.core.waiting import Waits
from roomkey.errors import SessionDataError
from roomkey.options import Seconds, is_number, seconds_of
from roomkey.wire import codec

if TYPE_CHECKING:
    from roomkey.core.users import Sessions

__all__ = ["Session"]

_LONGEST = 1e11  # seconds
_ENCODED = 3  # which field of what was loaded it is


class _Done:
    """What `regenerate_id` returns: it can be awaited, as some frameworks do, and there is nothing to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


class Session(Waits, Actor):
    """The session of one request: a dict with string keys, kept on the server.

    Everything that works on a dict works on it; changes deep inside values count. It is saved when the response
    starts. See `roomkey.wire.codec` for the types that it keeps. A value of a subclass is kept as its base type.
    """

    __slots__ = (
        "__weakref__",
        "_fresh_until",
        "_has_started",
        "_intents",
        "_is_https",
        "_loaded",
        "_nearby",
        "_origin",
        "_peer",
        "_sent",
        "_transaction",
    )

    # All of it in one step, also what belongs to `TrackedDict`: one is made for every request.
    def __init__(self, content: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any) -> None:
        dict.__init__(self, content, **more)
        self._accessed = self._changed = self._shared = self._has_started = False
        self._is_https = False  # whether the request came over HTTPS, as the server resolved it
        self._put = None
        self._intents = NOTHING
        # The session as loaded or last saved; a plain tuple until somebody asks (`completed`).
        self._loaded: tuple[Any, ...] = NOWHERE
        self._origin: Origin | None = None  # None: it belongs to no request
        self._transaction: Transaction | None = None
        self._fresh_until = inf  # Unix seconds; later than that, a renewal is due
        self._sent: Sequence[tuple[bytes, bytes]] = ()  # the request's headers
        # The client's address, as the server gave it; None: it is not to be recorded.
        self._peer: tuple[Any] | None = None
        self._nearby: Nearby | None  # see `roomkey.core.nearby`. Not there at all where nothing is kept near.

    # --- what a handler calls -------------------------------------------------------------------------------------

    def rotate(self, grace: Seconds = 0) -> None:
        """Give the session a new ID, from this response on; the old one is dead.

        Args:
            grace: seconds (or a `timedelta`) for which requests with the old ID are served. For rotation by the clock
                only: where rights change (log-in), the old ID must die at once (OWASP ASVS 7.2.4).

        Raises:
            ValueError: `grace` is negative or not a finite number.
            ImpersonationError: somebody acts for the user in this session.
        """
        span: float = seconds_of(grace)
        if not 0 <= span < float("inf"):
            raise ValueError(f"rotate: grace is {grace!r}; it takes seconds, 0 or more")
        self._check_own("rotate")
        self._accessed = self._changed = True
        dict.pop(self, CSRF, None)
        self._intents = self._intents._replace(rotate=float(span))

    def invalidate(self) -> None:
        """End the session: its data is gone, its store entry is deleted and its cookie is taken back.

        What is put into the session afterwards, in the same request, starts a new one with a new ID.
        """
        self.clear()
        self._intents = self._intents._replace(ended=True)

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
        self._accessed = self._changed = True
        if dict.__contains__(self, key):
            value = TrackedDict.__getitem__(self, key)  # the function may keep it, and fail
            before = codec.fingerprint(value)
        else:
            value, before = copy.deepcopy(default), MISSING
        change = Change(key, function, default, before, None)
        value = change.run(value)
        change = change._replace(after=codec.fingerprint(value))
        if type(value) not in codec.IMMUTABLE:
            self._shared = True
        self._intents = self._intents._replace(changes=(*self._intents.changes, change))
        dict.__setitem__(self, key, value)
        return value

    def remember(self, seconds: Seconds | None) -> None:
        """Keep this session for another time than `max_age` after its last use: "keep me signed in".

        Call it at log-in. The cookie then outlives the browser, also with `persistent=False`. The session still ends
        `absolute_timeout` after the log-in; to remember it for longer than that is logged once, as a warning. A change
        of user forgets it. A shorter time than before gives the session a new ID.

        Args:
            seconds: how long it lives after it was last used, in seconds or as a `timedelta`; None: `max_age` again.

        Raises:
            ValueError: `seconds` is not a number above 0, or more than 3,000 years.
            ImpersonationError: somebody acts for the user in this session.
        """
        span: float | None = seconds_of(seconds)
        if span is not None and not (is_number(span) and 0 < span < _LONGEST):
            raise ValueError(f"remember: seconds is {seconds!r}; it takes a number above 0, a timedelta, or None")
        self._check_own("remember")
        if span is not None and self._origin is not None:
            self._origin.check_lifetime(span)
        self._accessed = True
        self._intents = self._intents._replace(lifetime=None if span is None else float(span))

    def flash(self, message: Any, category: str = "info", *, now: bool = False) -> None:
        """Leave a message for the user's next page.

        The newest 50 are kept, fewer where `max_bytes` asks for it: where no page shows them, they fill no session.

        Args:
            message: anything that a session keeps.
            category: a word for the page, such as "info" or "error".
            now: it is for the page that this request makes, and is not kept for the next one.

        Raises:
            SessionDataError: the app has put something of its own under the key of the messages, `_flashes`.
        """
        messages.leave(self, message, category, now=now)

    async def flashes(self) -> list[tuple[str, Any]]:
        """Take the messages that wait, as pairs of category and message; each is handed out once and only once.

        They are removed from the store before this returns: of two requests at once, one shows them. Those that other
        requests leave meanwhile wait for the next page. Call it before the response starts.

        Raises:
            SessionDataError: the app has put something of its own under the key of the messages, `_flashes`.
            StoreUnavailable: the store did not do it; the messages still wait.
        """
        return await messages.take(self)

    def show_flashes(self) -> list[tuple[str, Any]]:
        """Return the messages that wait, for a template: `{% for category, message in session.show_flashes() %}`.

        As `flashes`, without `await`. They are removed with the response. So two pages that are made at the same moment
        may both show a message, and one that could not be saved leaves it waiting.

        Raises:
            SessionDataError: the app has put something of its own under the key of the messages, `_flashes`.
        """
        return messages.show(self)

    def keep_flashes(self) -> None:
        """Have the messages that this request has taken wait for one more page: where it redirects after all, say."""
        messages.keep(self)

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
            SessionEnded: the session was ended meanwhile, or somebody logged into it more than a minute ago.
            ResponseStarted: it needs a cookie that can no longer be sent.
            StoreUnavailable: the store did not say that it did it, and may have all the same. The next save finds out
                and counts nothing twice; where that cannot be found out, it raises StoreUnavailable again.
        """
        await self._attached().save()

    async def refresh(self) -> None:
        """Take in what other requests saved since; this request's own changes stay on top.

        Raises:
            SessionEnded: the session was ended meanwhile, or somebody has logged in.
            StoreUnavailable: the store did not answer, or whether the session has ended cannot be known.
        """
        self._accessed = True
        nearby = getattr(self, "_nearby", None)
        await (self._attached().refresh() if nearby is None else nearby.refresh(self))

    @property
    def handle(self) -> str:
        """The public name of the session: safe in logs and URLs, useless as a credential. Empty until it is saved."""
        self._accessed = True
        return self._attached().handle

    @property
    def is_new(self) -> bool:
        """Whether this request found no session: nothing was loaded."""
        self._accessed = True
        self._attached()
        return not self._at.exists

    @property
    def accessed(self) -> bool:
        """Whether anything used the session in this request, other than `peek`. Frameworks may assign it."""
        return self._accessed is not False and self._accessed is not PEEKED

    @accessed.setter
    def accessed(self, value: bool) -> None:
        self._accessed = bool(value)

    @property
    def modified(self) -> bool:
        """Whether the session differs from what was loaded, or was asked to rotate or end.

        Assign True to have it saved in any case. False takes that back. Other changes are saved all the same.
        """
        return self._attached().is_modified()

    @modified.setter
    def modified(self, value: bool) -> None:
        self._mark(bool(value))

    def mark_modified(self) -> None:
        """Have the session saved, be it as it was or not."""
        self._mark(True)

    def _mark(self, is_marked: bool) -> None:
        self._accessed, self._changed = True, self._changed or is_marked
        if is_marked is not self._intents.marked:
            self._intents = self._intents._replace(marked=is_marked)

    def regenerate_id(self) -> Awaitable[None]:
        """As `rotate()`, under the name that other libraries have for it. It may be awaited, and need not be."""
        self.rotate()
        return _Done()

    @property
    def created_at(self) -> dt.datetime:
        """When the session began (aware, UTC); for one not saved yet, when the request did."""
        self._accessed = True
        return dt.datetime.fromtimestamp(self._attached().created_at, dt.UTC)

    @property
    def expires_at(self) -> dt.datetime:
        """When it ends if nobody uses it any more (aware, UTC). Where this response renews it, as it is after that."""
        self._accessed = True
        return dt.datetime.fromtimestamp(self._attached().expires_at, dt.UTC)

    # --- what the session manager asks ----------------------------------------------------------------------------

    @property
    def _at(self) -> Loaded:
        """The session as it was loaded or last saved."""
        at = self._loaded
        if not isinstance(at, Loaded):
            at = self._loaded = completed(at)
        return at

    @_at.setter
    def _at(self, at: Loaded) -> None:
        self._loaded = at

    def _attached(self) -> Transaction:
        """Return the session's transaction; it is made when something first asks for it."""
        if self._transaction is None:
            if self._origin is None:
                raise RuntimeError("this Session belongs to no request; take it from request.session")
            self._transaction = self._origin.open(self)
        return self._transaction

    def _is_quiet(self) -> bool:
        """Whether there is nothing to save, to renew, to wait for or to tell the browser.

        Most requests end here. It may say no where a commit would find nothing to do.
        """
        if self._changed or self._shared or self._transaction is not None or self._intents is not NOTHING:
            return self._is_quiet_after_all()
        return not self._accessed or self._origin is None or self._origin.ticks.time() < self._fresh_until

    def _is_quiet_after_all(self) -> bool:
        if self._changed or self._intents is not NOTHING:
            return False
        if self._transaction is not None and not self._transaction.is_calm:
            return False
        if not self._accessed:
            return True
        if self._shared and not self._is_same():
            return False
        return self._loaded is NOWHERE or self._origin is None or self._origin.ticks.time() < self._fresh_until

    def _is_same(self) -> bool:
        """Whether the content is what was loaded or last saved."""
        encoded: bytes = self._loaded[_ENCODED]
        try:
            return encoded != b"" and codec.encode_like(dict(dict.items(self)), encoded) == encoded
        except SessionDataError:
            return False

    def _set_content(self, content: Mapping[str, Any]) -> None:
        """Put `content` in the place of all that is in the session; nothing empties it, which is a log-out."""
        if not content:
            self.clear()
            return
        self._accessed = True
        self._intents = self._intents._replace(changes=(), refused=None)
        super().clear()
        self.update(content)

    def clear(self) -> None:
        """Empty the session; if it is still empty when the request ends, it ends.

        A user who is put into it after this has logged in, also the one who was there before. Deleting the last key
        ends the session too, unless another request put something into it meanwhile.
        """
        self._intents = self._intents._replace(cleared=True, changes=(), refused=None, proofs=(), acting=None)
        super().clear()
