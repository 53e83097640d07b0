"""Sessions: a user's sessions, listed and revoked."""

from __future__ import annotations

import datetime as dt
import enum
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast
from uuid import UUID

from roomkey.config import SessionConfig
from roomkey.core.loaded import Stored
from roomkey.core.registry import Registry
from roomkey.core.renewal import Expiry
from roomkey.core.reporting import Reporter
from roomkey.core.tombstones import Way
from roomkey.errors import ConfigurationError, SessionDataError, StoreUnavailable
from roomkey.options import named_options
from roomkey.stores.base import Record
from roomkey.stores.cookie import CookieStore
from roomkey.wire.about import LONGEST_LABEL, about_in
from roomkey.wire.envelope import trail_in
from roomkey.wire.user_ids import checked_text

__all__ = ["ANYBODYS", "SessionInfo", "Sessions", "Whose"]


User = int | str | UUID
_Method = TypeVar("_Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def _notes_outages(method: _Method) -> _Method:
    """Have the request that asks know that the store is down: its framework may let nobody else have the exception."""

    @functools.wraps(method)
    async def asks(self: Sessions, *args: Any, **kwargs: Any) -> Any:
        unavailable: StoreUnavailable | None = None
        try:
            return await method(self, *args, **kwargs)
        except StoreUnavailable as error:
            unavailable = error
            raise
        finally:
            if self._current is not None:
                self._current._attached().note(unavailable)

    return cast(_Method, asks)


class Asking(Protocol):
    """A session that asks, or that is to be kept: `request.session`."""

    @property
    def handle(self) -> str: ...

    def _attached(self) -> Noting: ...


class Noting(Protocol):
    """The transaction of a session that asks."""

    def note(self, error: StoreUnavailable | None) -> None: ...
    @property
    def first_key(self) -> str: ...
    def present_user(self) -> str | None: ...
    def expiry(self, record: Record) -> Expiry: ...


class HasRegistry(Protocol):
    """What an app made of its configuration."""

    config: SessionConfig

    @property
    def registry(self) -> Registry: ...


class Whose(enum.Enum):
    """Whose session may be ended or named, where no user is given."""

    ANYBODYS = enum.auto()
    CURRENT_USERS = enum.auto()  # the user's of the session that asks; anybody's where none asks


ANYBODYS: Literal[Whose.ANYBODYS] = Whose.ANYBODYS
_WhoseSession = User | Literal[Whose.ANYBODYS, Whose.CURRENT_USERS] | None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session, as a list of them shows it. Moments are aware, UTC."""

    handle: str  # its public name: safe in logs and URLs
    user: str
    created_at: dt.datetime
    last_used_at: dt.datetime  # at most a tenth of `max_age` too early, in streams a fifth: renewals are throttled
    expires_at: dt.datetime  # if nobody uses it any more; of the session that asks, as this response renews it
    ip: str | None  # of the log-in; None: not recorded (`record_client`)
    user_agent: str | None
    label: str | None  # the user's own name for it (`Sessions.label`); None: it has none
    is_current: bool  # whether it is the session that asks
    country: str | None = None  # of the log-in, as the option `country` found it; None: not known
    actor: str | None = None  # who acts for the user in it (`Session.impersonate`); None: it is the user's own

    @property
    def device(self) -> str | None:
        """What it is used with, in words: "Firefox on Windows". None: not recorded (`record_client`), or not known.

        With `roomkey[devices]`, ua-parser tells browsers apart. It is a hint for the user, and no proof.
        """
        from roomkey.core.agents import device_in  # here, because its patterns take a while to be made

        return device_in(self.user_agent)


@named_options(missing={"config": "it takes the app's SessionConfig (middleware.config)"})
class Sessions:
    """The sessions of an app's users.

    In a handler: `request.session.sessions`. Elsewhere, in a script or a job: `Sessions(config)` with the same store.

    Args:
        config: the configuration of the app.
        current: the session that asks.

    Raises:
        ConfigurationError: nothing is kept on the server (`cookie://`); or by a method, when the store cannot do what
            is asked.
    """

    def __init__(self, config: SessionConfig | HasRegistry, *, current: Asking | None = None) -> None:
        made: HasRegistry | None = (
            cast(HasRegistry, config) if isinstance(getattr(config, "registry", None), Registry) else None
        )
        settings = config if made is None else made.config
        if not isinstance(settings, SessionConfig):
            raise ConfigurationError(
                f"Sessions: got {type(config).__name__}; it takes the app's SessionConfig (middleware.config)"
            )
        if isinstance(settings.store, CookieStore):
            raise ConfigurationError(
                "store: cookie:// keeps nothing on the server: there is no list, and nothing to revoke; to end all "
                "sessions, give a new secret_key"
            )
        self._registry = Registry(settings, Reporter(settings.on_event)) if made is None else made.registry
        self._current = current

    @_notes_outages
    async def of(self, user: User) -> list[SessionInfo]:
        """List a user's live sessions, the one used last first.

        Args:
            user: the value of `user_key`. An ID and its text are one user: `1` and `"1"`, a `UUID` and `str()` of it.

        Raises:
            ConfigurationError: the store cannot find a user's sessions, or there is no `user_key`.
            SessionDataError: `user` is no user's ID, such as None or 1.5.
            StoreUnavailable: the store does not answer.
        """
        here = self._handle_of(self._current)
        found = [self._info(key, record, here) for key, record in await self._live(user)]
        return sorted(found, key=lambda info: (info.last_used_at, info.created_at, info.handle), reverse=True)

    @_notes_outages
    async def get(self, handle: str) -> SessionInfo | None:
        """Look one session up.

        Args:
            handle: its public name. Where its ID has changed since, the session is found all the same, under its
                new handle.

        Returns:
            None: there is no such session, or not any more.

        Raises:
            StoreUnavailable: the store does not answer, or the session changes its ID too often to be found.
        """
        found = await self._find(handle)
        return None if found is None else self._info(found.key, found.record, self._handle_of(self._current))

    async def every(self) -> AsyncIterator[SessionInfo]:
        """Go through everybody's live sessions, in no order: for a script that counts them, say.

        One that begins, ends or changes its ID meanwhile may be missing. One may come twice.

        Raises:
            ConfigurationError: the store cannot go through its sessions.
            StoreUnavailable: it does not answer.
        """
        here = self._handle_of(self._current)
        found, after = await self._registry.some("")
        while True:
            for key, record in found:
                yield self._info(key, record, here)
            if not after:
                return
            found, after = await self._registry.some(after)

    @_notes_outages
    async def revoke(self, handle: str, *, user: _WhoseSession = Whose.CURRENT_USERS) -> bool:
        """End one session.

        Args:
            handle: its public name.
            user: whose it has to be; None is nobody. Without it, `session.sessions` ends a session only of the user of
                `session`, whatever handle a browser sends, and `Sessions(config)` anybody's. `roomkey.ANYBODYS`:
                anybody's in a request too, for operators.

        Returns:
            Whether there was such a session. False also where its ID has changed so often since then that nothing leads
            there from `handle`: the list has its new one.

        Raises:
            ConfigurationError: there is no `user_key`, and `user` is given, or a session asks.
            SessionDataError: `user` is no user's ID, such as 1.5.
            StoreUnavailable: the store does not answer, or the session changes its ID too often to be found.
        """
        found = await self._find_of(handle, user)
        return False if found is None else await self._registry.end(found, "revoked")

    @_notes_outages
    async def label(self, handle: str, label: str | None, *, user: _WhoseSession = Whose.CURRENT_USERS) -> bool:
        """Give one session a name, by which its user knows it: "my phone". It is shown as `SessionInfo.label`.

        The name stays until the user logs out or another one logs in. It is stored in clear, also with `seal`.

        Args:
            handle: its public name.
            label: the name, of at most 100 characters. None or an empty text: it has none any more.
            user: whose it has to be, as for `revoke`.

        Returns:
            Whether there is such a session.

        Raises:
            ConfigurationError: as for `revoke`.
            SessionDataError: `label` is too long or no text, or `user` is no user's ID.
            StoreUnavailable: the store does not answer, or others save the session all the time.
        """
        name = _checked_label(label)
        found = await self._find_of(handle, user)
        return False if found is None else await self._registry.label(found, name)

    @_notes_outages
    async def revoke_all(self, user: User, *, keep: Asking | str | None = None) -> int:
        """End all sessions of a user: after a change of password, say (OWASP ASVS 7.4.3).

        Args:
            user: the value of `user_key`, as for `of`.
            keep: the session, or the handle of the session, to spare. A session is found however often its ID has
                changed since.

        Returns:
            How many ended. Damaged records, which nobody can load, go too and are not counted.

        Raises:
            ConfigurationError: the store cannot find a user's sessions, or there is no `user_key`.
            SessionDataError: `user` is no user's ID, such as None or 1.5.
            StoreUnavailable: it does not answer, or a session changes its ID too often to be found; some may have
                ended. None has where it is the handle to keep that leads nowhere, and to one of them it may have led.
        """
        handle = keep if isinstance(keep, str) else self._handle_of(keep)
        absurd: list[str] = []
        live = await self._live(user, absurd)
        for key in absurd:  # nobody can load them, so that nothing under way has to be met
            await self._registry.store.delete(key)
        # Others may rotate it meanwhile. Asked after the list: wherever the list has met it, it stays.
        spared = Way()
        is_found = await self._find(handle, spared) is not None
        if keep is not None and not isinstance(keep, str):
            spared[keep._attached().first_key] = None
        theirs = [Stored(key, record, b"") for key, record in live if spared.keys().isdisjoint(_keys_of(key, record))]
        if isinstance(keep, str) and not is_found and len(theirs) == len(live):
            await self._check_none_is(theirs)
        ended = await self._registry.end_several(theirs)
        await self._registry.discard_unreadable(user=self._text_of(user))
        return ended

    @_notes_outages
    async def end_all(self) -> None:
        """End every session of everybody, after a breach, in a time that does not grow with their number.

        Raises:
            ConfigurationError: the store cannot do that; the message says what can.
            StoreUnavailable: it does not answer.
        """
        await self._registry.store.wipe()

    async def _find(self, handle: str, way: Way | None = None) -> Stored | None:
        return await self._registry.current_of(handle, way=way) if _is_handle(handle) else None

    async def _find_of(self, handle: str, user: object) -> Stored | None:
        """Return the session of this handle; None: there is none, or it is not one of `user`'s."""
        if user is Whose.ANYBODYS or (user is Whose.CURRENT_USERS and self._current is None):
            return await self._find(handle)
        if user is Whose.CURRENT_USERS and self._current is not None:
            self._check_filed()
            whose = self._current._attached().present_user()
        else:
            whose = self._text_of(user)
        found = await self._find(handle)
        return found if found is not None and whose is not None and found.record.user == whose else None

    async def _check_none_is(self, sessions: list[Stored]) -> None:
        """Make sure that none of these may be the one that a handle led to which leads nowhere now."""
        for each in sessions:
            if await self._registry.trails.was_cut(each.record):
                raise StoreUnavailable(
                    "keep: no session is found by this handle, and one of the user's has changed its ID too often to "
                    "know whether it is that; nothing was ended"
                )

    async def _live(self, user: User, absurd: list[str] | None = None) -> list[tuple[str, Record]]:
        whose = self._text_of(user)
        if whose is None:
            raise SessionDataError("user: None and an empty text are nobody, and nobody has no sessions; give an ID")
        return await self._registry.of_user(whose, absurd)

    def _text_of(self, user: object) -> str | None:
        self._check_filed()
        return checked_text("user", user)

    def _check_filed(self) -> None:
        if self._registry.rules.user_key is None:
            raise ConfigurationError(
                "user_key: it is None, so that no session is filed under a user; give it the session key that says "
                "whose session it is"
            )

    def _info(self, key: str, record: Record, here: str) -> SessionInfo:
        rules = self._registry.rules
        created_at, expires_at = record.created_at, record.expires_at
        last_used_at = rules.clocks.last_used(rules.clock(), record)
        shown = about_in(record.about)
        if key == here and self._current is not None:  # as it is once this response has renewed it
            created_at, expires_at, is_renewed = self._current._attached().expiry(record)
            last_used_at = rules.clock() if is_renewed else last_used_at
        return SessionInfo(
            handle=key,
            user=record.user or "",
            created_at=_moment(record.created_at),
            last_used_at=_moment(last_used_at),
            expires_at=_moment(rules.clocks.end_of(created_at, expires_at)),
            ip=shown.ip,
            user_agent=shown.user_agent,
            label=shown.label,
            is_current=key == here,
            country=shown.country,
            actor=shown.actor,
        )

    def _handle_of(self, session: Asking | None) -> str:
        return "" if session is None else session.handle


def _keys_of(key: str, record: Record) -> list[str]:
    """Return the store keys that a session has had, as far as it knows them: the first one, the last ones, its own."""
    return [*trail_in(record.data), key]


def _is_handle(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _checked_label(label: object) -> str | None:
    if label is None:
        return None
    if not isinstance(label, str):
        raise SessionDataError(f"label: got {type(label).__name__}; it takes text, or None")
    text = label.encode("utf-8", "replace").decode().strip()
    if len(text) > LONGEST_LABEL:
        raise SessionDataError(f"label: it has {len(text)} characters; it takes {LONGEST_LABEL} at most")
    return text or None


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
