"""OperatorsPage: how many sessions there are, what happened to them lately, and a user's sessions, to be ended."""

from __future__ import annotations

import datetime as dt
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from roomkey.config import SessionConfig
from roomkey.core.session import Session
from roomkey.core.users import Sessions
from roomkey.errors import ConfigurationError, SessionDataError, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.options import Seconds, named_options
from roomkey.pages.activity import Activity
from roomkey.pages.page import Form, Page, query_of
from roomkey.pages.rendering import Answer, plain
from roomkey.stores.base import Scan
from roomkey.web.asgi import Scope

__all__ = ["OperatorsPage"]

_MOST_COUNTED = 10_000  # sessions; each is read
_READ_A_SECOND = 100  # sessions, on average, however often somebody loads the page
_TALLEST = 100  # of a bar, in units of the drawing

Allow = Callable[[Scope], bool | Awaitable[bool]]


class _Count(NamedTuple):
    """How many sessions there were."""

    sessions: int
    users: int
    is_whole: bool  # False: there are more
    at: dt.datetime

    @property
    def lasts(self) -> float:
        """For how many seconds it is shown, and nothing counted anew."""
        return self.sessions / _READ_A_SECOND


@named_options(missing={"allow": "it takes a function of the request's scope that says who may see the page"})
class OperatorsPage(Page):
    """A page for the people who run an app: counts, log-ins and log-outs, outages, and any user's sessions.

    It is an ASGI app, to be mounted below a `SessionMiddleware`. It shows nothing of a session's data. What happened
    lately is known of one process, since it started. Sessions are counted up to 10,000, which costs at
    most 100 loads a second on average.

    Args:
        manager: the app's `SessionManager`, or its `SessionConfig`.
        allow: a function of the request's scope, plain or `async`, that returns whether this person may see the page.
            `scope["session"]` is the session.
        refuse_with: the status for everybody else. 404 by default: it does not say that the page is there.
        activity: what counts the events. None: a manager's are counted from now on. With a `SessionConfig`, give the
            `Activity` that is its `on_event`, or that your own `on_event` calls.
        recent: as for `DevicesPage`.
        log_in_url: as for `DevicesPage`.
        home_url: as for `DevicesPage`.
        templates: as for `DevicesPage`. The template is `operators.html`.
        language: as for `DevicesPage`.
        words: as for `DevicesPage`.

    Raises:
        ConfigurationError: an option is wrong, or the store cannot list a user's sessions. By a request: no
            `SessionMiddleware` is around the page.

    Example:
        >>> from roomkey import SessionManager
        >>> from roomkey.pages import OperatorsPage
        >>> manager = SessionManager(secret_key="k" * 32, store="memory://")
        >>> page = OperatorsPage(manager, allow=lambda scope: scope["session"].get("role") == "operator")
    """

    template = "operators.html"

    def __init__(
        self,
        manager: SessionManager | SessionConfig,
        *,
        allow: Allow,
        refuse_with: Literal[403, 404] = 404,
        activity: Activity | None = None,
        recent: Seconds | None = None,
        log_in_url: str | None = None,
        home_url: str | None = None,
        templates: str | os.PathLike[str] | None = None,
        language: str | None = None,
        words: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(
            manager,
            recent=recent,
            log_in_url=log_in_url,
            home_url=home_url,
            templates=templates,
            language=language,
            words=words,
        )
        if not callable(allow):
            raise ConfigurationError(f"allow: got {allow!r}; it takes a function of the request's scope")
        if refuse_with not in (403, 404):
            raise ConfigurationError(f"refuse_with: got {refuse_with!r}; it takes 403 or 404")
        self._allow = allow
        self._refuse_with = refuse_with
        self._activity = _activity_of(manager, activity)
        self._count: _Count | None = None

    async def _refusal(self, scope: Scope, session: Session) -> Answer | None:
        allowed = self._allow(scope)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if allowed:
            return None
        if self._refuse_with == 404:
            return plain(404, "Not Found\n")
        return self._notice(scope, "forbidden", 403, None)

    async def _show(self, scope: Scope, session: Session, *, status: int = 200) -> Answer:
        query = query_of(scope)
        user = query.get("user", "").strip()
        count, trouble = await self._counted(session.sessions)
        rows = [] if not user else self._rows(scope, await _sessions_of(session.sessions, user))
        return self._page(
            scope,
            session,
            status=status,
            query=query,
            count=count,
            trouble=trouble,
            totals=self._activity.totals,
            hours=self._activity.hours,
            bars=_bars(self._activity),
            since=self._activity.since,
            process=os.getpid(),
            outages=self._activity.outages,
            user=user,
            rows=rows,
            has_own=any(row.info.is_current for row in rows),
        )

    async def _act(self, scope: Scope, session: Session, form: Form) -> str:
        user, sessions = form.get("user", ""), session.sessions
        done = {"user": user, "done": "gone"}
        try:
            if "all" in form:
                done.update(done="all", count=str(await sessions.revoke_all(user, keep=session)))
            elif await sessions.revoke(form.get("end", ""), user=user):
                done.update(done="one")
        except SessionDataError:  # what was sent is no user's ID
            pass
        self._count = None
        return urlencode(done)

    async def _counted(self, sessions: Sessions) -> tuple[_Count | None, str | None]:
        """Return how many sessions there are, or which text says why that is not known."""
        if not isinstance(self.config.store, Scan):
            return None, "cannot_count"
        now = self.config.clock()
        if self._count is None or not 0 <= now - self._count.at.timestamp() < self._count.lasts:
            try:
                self._count = await _count(sessions, now)
            except StoreUnavailable:  # the page says so, and shows the rest
                return None, "no_answer"
        return self._count, None


async def _count(sessions: Sessions, now: float) -> _Count:
    handles: set[str] = set()  # one may come twice
    users: set[str] = set()
    async for info in sessions.every():
        handles.add(info.handle)
        if info.user:
            users.add(info.user)
        if len(handles) >= _MOST_COUNTED:
            return _Count(len(handles), len(users), False, dt.datetime.fromtimestamp(now, dt.UTC))
    return _Count(len(handles), len(users), True, dt.datetime.fromtimestamp(now, dt.UTC))


async def _sessions_of(sessions: Sessions, user: str) -> Any:
    try:
        return await sessions.of(user)
    except SessionDataError:  # what was typed is no user's ID
        return []


def _activity_of(manager: SessionManager | SessionConfig, activity: object) -> Activity:
    if activity is None and isinstance(manager, SessionManager):
        made = Activity(clock=manager.config.clock)
        manager.reporter.subscribe(made)
        return made
    if activity is None and isinstance(manager, SessionConfig):
        activity = manager.on_event
    if not isinstance(activity, Activity):
        raise ConfigurationError(
            "activity: missing; with a SessionConfig, make activity = Activity() and give it to both, as "
            "SessionConfig(on_event=activity) and OperatorsPage(config, activity=activity)"
        )
    return activity


def _bars(activity: Activity) -> list[tuple[float, float]]:
    """Return how tall the bars of each hour are, for log-ins and log-outs."""
    hours = activity.hours
    most = max(max(each.log_ins, each.log_outs) for each in hours) or 1
    return [(_TALLEST * each.log_ins / most, _TALLEST * each.log_outs / most) for each in hours]
