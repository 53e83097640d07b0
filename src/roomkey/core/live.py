"""Sessions of what is open for long: WebSockets and streams hear when their session ends, or another request saves it.

The store tells what happened elsewhere (`roomkey.stores.base.Watch`), and a look at it says what is there now. Where
the store cannot tell, all sessions of what is open are looked at, every `live_interval`.

Only an app with `live=True` imports this module.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, ClassVar, Literal
from weakref import WeakKeyDictionary

from roomkey.core.registry import Registry
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError
from roomkey.stores.base import Notice, Record, What

if TYPE_CHECKING:
    from roomkey.core.loaded import Stored

__all__ = ["Follower", "Live", "Why"]

Why = Literal["ended", "expired", "log-in"]

_SETTLED = 0.2  # seconds after which what is open is looked at for the first time: most of it is over by then
_TICK = 1.0  # seconds between two looks at the clock
_IDLE = 5.0  # seconds after which nobody watches any more, where nothing is open
_TOGETHER = 64  # sessions that are looked at together
_CALM = 6  # how many times `live_interval` pass between two looks at everything, where the store tells what happens


class Follower:
    """Something open that follows its session, from `Live.follow` until it leaves.

    It is a base class without state of its own, because there are many: what is open can be a follower itself.
    """

    __slots__ = ("key", "session", "user")

    speaks: ClassVar[bool] = False  # whether it is the app that waits for the end
    hears_changes: ClassVar[bool] = False  # whether it is of interest that another request has saved the session

    session: Session
    key: str  # of the session in the store; empty: it has none that is kept
    user: str | None

    def end(self, why: Why, speaks: bool) -> None:
        """Be told once that the session has ended. `speaks`: whether the app says goodbye itself."""
        raise NotImplementedError

    def change(self) -> None:
        """Be told that another request has saved the session."""
        raise NotImplementedError


class _WaitsForEnd(Follower):
    """A task that waits for the end of a session."""

    __slots__ = ("future",)
    speaks = True

    def __init__(self) -> None:
        self.future: asyncio.Future[Why] = asyncio.get_running_loop().create_future()

    def end(self, why: Why, speaks: bool) -> None:
        if not self.future.done():
            self.future.set_result(why)


class _WaitsForChange(Follower):
    """A task that waits until another request saves a session."""

    __slots__ = ("future",)
    hears_changes = True

    def __init__(self) -> None:
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(self, why: Why, speaks: bool) -> None:
        self._tell(False)

    def change(self) -> None:
        self._tell(True)

    def _tell(self, has_changed: bool) -> None:
        if not self.future.done():
            self.future.set_result(has_changed)


class _OfActor(Follower):
    """Follows the session of whoever acts for a user, for something that is open in the user's session."""

    __slots__ = ("live", "opened")

    def __init__(self, live: Live, opened: Follower) -> None:
        self.live, self.opened = live, opened

    @property
    def speaks(self) -> bool:  # type: ignore[override]
        return self.opened.speaks

    def end(self, why: Why, speaks: bool) -> None:
        if self.live.leave(self.opened):  # else it has been told by its own session
            self.opened.end(why, speaks)


class Live:
    """What is open, of one manager.

    Args:
        registry: finds sessions.
        interval: seconds between two looks at everything, where the store cannot tell what happens.
    """

    def __init__(self, registry: Registry, interval: float) -> None:
        self._registry, self._interval = registry, interval
        self._here: WeakKeyDictionary[asyncio.AbstractEventLoop, _Here] = WeakKeyDictionary()
        self._of_actors: dict[Follower, _OfActor] = {}
        registry.store.publish(changes=True)

    def follow(self, follower: Follower, session: Session) -> bool:
        """Have something hear of its session. False: that is not kept."""
        record: Record
        key, record, *_ = session._loaded  # not `_at`, which would be made for each of many connections
        follower.session, follower.key, follower.user = session, key, record.user
        if not key:
            return False
        loop = asyncio.get_running_loop()
        here = self._here.get(loop)
        if here is None:
            here = self._here[loop] = _Here(self._registry, self._interval)
        here.add(follower, record)
        actor = None if session._transaction is None else session._transaction.actor
        if actor is not None:
            beside = self._of_actors[follower] = _OfActor(self, follower)
            beside.session, beside.key, beside.user = session, actor.key, actor.record.user
            here.add(beside, actor.record)
        return True

    def leave(self, follower: Follower) -> bool:
        """Let it hear no more. False: it has left already."""
        here = self._here.get(asyncio.get_running_loop())
        if here is None:
            return False
        beside = self._of_actors.pop(follower, None)
        if beside is not None:
            here.discard(beside)
        return here.discard(follower)

    def close(self) -> None:
        """Let nothing in this event loop hear any more: the store closes."""
        here = self._here.pop(asyncio.get_running_loop(), None)
        if here is not None:
            here.close()

    async def ended(self, session: Session) -> Why:
        """Wait for the end of a session, and return why it ended."""
        waiting = _WaitsForEnd()
        self._must_follow(waiting, session, "ended")
        try:
            return await waiting.future
        finally:
            self.leave(waiting)

    async def changed(self, session: Session) -> bool:
        """Wait until another request saves a session. False: it has ended."""
        waiting = _WaitsForChange()
        self._must_follow(waiting, session, "changed")
        try:
            return await waiting.future
        finally:
            self.leave(waiting)

    def _must_follow(self, follower: Follower, session: Session, method: str) -> None:
        if not self.follow(follower, session):
            raise ConfigurationError(
                f"session.{method}(): there is no session yet: put something into it, and let the response start or "
                "await session.save() first"
            )


class _Followed:
    """A session of something open."""

    __slots__ = ("followers", "until")

    def __init__(self, until: float) -> None:
        self.until = until  # Unix seconds when it expires, as far as is known
        self.followers: list[Follower] = []


class _Here:
    """What is open in one event loop."""

    def __init__(self, registry: Registry, interval: float) -> None:
        self._registry, self._interval = registry, interval
        self._loop = asyncio.get_running_loop()
        self._followed: dict[str, _Followed] = {}  # by the key of the session
        self._soonest = inf  # Unix seconds: none of them expires sooner
        self._again: deque[tuple[float, str]] = deque()  # those to be looked at in a moment, and when
        self._suspects: set[str] = set()  # those that are to be looked at now
        self._stands = False  # whether the store tells what happens
        self._all_at = 0.0  # when all are to be looked at, on the loop's clock
        self._woken = asyncio.Event()
        self._wants_changes = False
        self._stop_watching: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    # --- who follows ----------------------------------------------------------------------------------------------

    def add(self, follower: Follower, record: Record) -> None:
        key = follower.key
        self._at(key, record.created_at, record.expires_at).followers.append(follower)
        # What happened between the load of its session and now may have been told before.
        self._again.append((self._loop.time() + _SETTLED, key))
        if follower.hears_changes and not self._wants_changes:
            self._wants_changes = True
            self._unwatch()
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name="roomkey: live")
        if self._stop_watching is None:
            self._all_at = self._loop.time() + self._interval
            self._stop_watching = self._registry.store.watch(
                self._hear, lambda: self._followed.keys(), changes=self._wants_changes
            )

    def discard(self, follower: Follower) -> bool:
        known = self._followed.get(follower.key)
        if known is None or follower not in known.followers:
            return False
        known.followers.remove(follower)
        if not known.followers:
            del self._followed[follower.key]
        return True

    def _at(self, key: str, created_at: float, expires_at: float) -> _Followed:
        """Return those that follow a session, of which this is known now."""
        until = self._registry.clocks.end_of(created_at, expires_at)
        known = self._followed.get(key)
        if known is None:
            known = self._followed[key] = _Followed(until)
        known.until = max(known.until, until)
        self._soonest = min(self._soonest, known.until)
        return known

    def close(self) -> None:
        self._unwatch()
        if self._task is not None:
            self._task.cancel()

    def _unwatch(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching, self._stands = None, False

    # --- what is told ---------------------------------------------------------------------------------------------

    def _hear(self, notice: Notice) -> None:
        what = notice.what
        if what is What.STANDS or what is What.LOST:
            self._stands = what is What.STANDS
            # What was done before may not have been told.
            self._all_at = self._loop.time() + (0.0 if self._stands else self._interval)
            self._woken.set()
        elif what is What.WIPED:
            self._suspect(self._followed)
        elif what is What.CHANGED:
            known = self._followed.get(notice.key)
            for follower in [] if known is None else [*known.followers]:
                self._weigh(follower, notice.version)
        elif notice.key in self._followed:
            self._suspect([notice.key])

    def _suspect(self, keys: Iterable[str]) -> None:
        self._suspects.update(keys)
        self._woken.set()

    def _weigh(self, follower: Follower, version: int) -> None:
        """Say that a session has changed, unless it was this request that saved it."""
        if not follower.hears_changes:
            return
        session = follower.session
        is_saving = session._transaction is not None and not session._transaction.is_calm
        if is_saving or version == 0:
            self._again.append((self._loop.time() + _SETTLED, follower.key))
        elif version > session._at.record.version:
            follower.change()

    # --- looking --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        idle_since = self._loop.time()
        while True:
            now = self._loop.time()
            if self._followed:
                idle_since = now
            elif now - idle_since >= _IDLE:
                self._unwatch()
                self._task = None
                return
            timer = self._loop.call_later(_SETTLED / 2 if self._again else _TICK, self._woken.set)
            await self._woken.wait()
            timer.cancel()
            self._woken.clear()
            self._take_due()
            if self._suspects:
                await self._look()

    def _take_due(self) -> None:
        """Add those that are to be looked at by the time."""
        now, followed = self._loop.time(), self._followed
        if now >= self._all_at:
            self._all_at = now + self._interval * (_CALM if self._stands else 1)
            self._suspects.update(followed)
        while self._again and self._again[0][0] <= now:
            self._suspects.add(self._again.popleft()[1])
        clock = self._registry.rules.clock()
        if clock >= self._soonest:
            self._suspects.update(key for key, known in followed.items() if known.until <= clock)
            self._soonest = min((known.until for known in followed.values() if known.until > clock), default=inf)
        self._suspects &= followed.keys()

    async def _look(self) -> None:
        """Look at those that may have ended, some at a time."""
        suspects, self._suspects = list(self._suspects), set()
        for first in range(0, len(suspects), _TOGETHER):
            some = suspects[first : first + _TOGETHER]
            found = await asyncio.gather(*(self._registry.current_of(key) for key in some), return_exceptions=True)
            failed = 0
            for key, stored in zip(some, found, strict=True):
                if isinstance(stored, BaseException):
                    failed += 1
                    self._again.append((self._loop.time() + _TICK, key))
                else:
                    self._see(key, stored)
            if failed == len(some):  # the store is down
                self._again.extend((self._loop.time() + _TICK, key) for key in suspects[first + _TOGETHER :])
                return
            await asyncio.sleep(0)  # requests get in between

    def _see(self, key: str, stored: Stored | None) -> None:
        """Tell those who follow a session what became of it."""
        known = self._followed.pop(key, None)
        if known is None:
            return
        if stored is None:
            self._end(known.followers, "expired" if known.until <= self._registry.rules.clock() else "ended")
            return
        record = stored.record
        self._end([follower for follower in known.followers if follower.user != record.user], "log-in")
        others = [follower for follower in known.followers if follower.user == record.user]
        if not others:
            return
        self._at(stored.key, record.created_at, record.expires_at).followers.extend(others)
        for follower in others:
            follower.key = stored.key
            if follower.hears_changes and record.version > follower.session._at.record.version:
                follower.change()

    def _end(self, followers: list[Follower], why: Why) -> None:
        spoken = {id(follower.session) for follower in followers if follower.speaks}
        for follower in followers:
            follower.end(why, id(follower.session) in spoken)
