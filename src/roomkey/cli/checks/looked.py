"""What `roomkey doctor` looked at, as frozen values, and what a check makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from roomkey.manager import SessionManager

__all__ = [
    "UNSAFE",
    "Answer",
    "Check",
    "Finding",
    "Gap",
    "Layer",
    "Looked",
    "Pair",
    "Public",
    "Route",
    "Sample",
    "StoreLook",
    "check",
]

UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})  # methods that may change something


class Layer(NamedTuple):
    """A part of the app that a request came through: a middleware, say."""

    kind: Literal["roomkey", "session", "csrf", "auth", "other"]  # session: another library's
    name: str  # of its class
    is_roomkeys: bool = False  # whether the class is one of Roomkey's
    cookie: str | None = None  # the name of its session's cookie; None: it has none, or nobody knows


class Answer(NamedTuple):
    """What the app answered to one request."""

    method: str
    path: str
    status: int  # 0: the app did not answer in time
    headers: tuple[tuple[str, str], ...]  # names in lower case
    layers: tuple[Layer, ...] = ()  # from outside to inside
    used_session: bool = False
    error: str = ""  # the class of the exception that came out of the app

    def header(self, name: str) -> str | None:
        """Return the first header of this name."""
        return next((value for each, value in self.headers if each == name), None)

    @property
    def cookies(self) -> list[str]:
        """The values of `Set-Cookie`."""
        return [value for name, value in self.headers if name == "set-cookie"]


class Route(NamedTuple):
    """A path of the app's that takes requests."""

    path: str
    methods: frozenset[str]


class Sample(NamedTuple):
    """Some of the live sessions in a store."""

    seen: int = 0  # how many
    largest: int = 0  # bytes
    above_half: int = 0  # how many are larger than half of `max_bytes`
    unseen_log_ins: tuple[str, ...] = ()  # names of keys that log-ins of others use, in sessions that are nobody's
    is_sealed: bool = False  # so that nobody can see what they hold


class StoreLook(NamedTuple):
    """What was seen of a manager's store."""

    manager: SessionManager
    not_ready: str = ""  # why it cannot work as it is configured
    silent: str = ""  # why it does not answer now
    near_refused: str = ""  # why it does not say what changes, where `near_cache` needs that
    warnings: tuple[str, ...] = ()  # what it said when it was opened
    ahead: float | None = None  # seconds that the server's clock is before the app's; None: not known
    is_local: bool = False  # whether it has no server with a clock of its own
    sample: Sample | None = None
    no_sample: str = ""  # why there is none


class Pair(NamedTuple):
    """The same request to the app here and to the running site."""

    here: Answer
    there: Answer


class Public(NamedTuple):
    """The running site."""

    scheme: str
    host: str  # with the port, where the URL has one
    pairs: tuple[Pair, ...]
    same_origin: Pair  # an unsafe request with the site's own `Origin`, to a path that there is not
    without_origin: Answer  # of the site, to the same request without an `Origin`


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """All that was looked at."""

    framework: Literal["asgi", "django", "flask", "quart"]
    managers: tuple[SessionManager, ...]
    fingerprints: tuple[tuple[str, ...], ...] = ()  # of the keys, in each process; empty: not looked at
    no_fingerprints: str = ""  # why the keys were seen in one process only
    answers: tuple[Answer, ...] = ()  # to `GET`, one for each path
    no_answers: str = ""  # why there are none
    cross_site: Answer | None = None  # to a `POST` that another site's page makes, to a path that there is not
    same_site: Answer | None = None  # to the same one that the app's own page makes
    polls: tuple[Answer, ...] = ()  # to `GET` of routes that are named as if a page polled them
    routes: tuple[Route, ...] = ()
    knows_routes: bool = False  # whether `routes` are all that there are
    imports_tokens: bool = False  # whether code of the app's imports `verify_csrf_token`
    extensions: frozenset[str] = frozenset()  # of a Flask app
    stores: tuple[StoreLook, ...] = ()
    said: tuple[str, ...] = ()  # warnings in Roomkey's log, but for those of a store
    public: Public | None = None

    def option(self, name: str) -> str:
        """Return how this framework calls an option."""
        return name if self.framework == "asgi" else _SETTINGS.get(name, name)

    @property
    def with_cookie(self) -> list[SessionManager]:
        """The managers whose session travels in a cookie."""
        return [manager for manager in self.managers if manager.config.card_header is None]


_SETTINGS = {
    "secret_key": "SECRET_KEY",
    "session_cookie": "SESSION_COOKIE_NAME",
    "https_only": "SESSION_COOKIE_SECURE",
    "domain": "SESSION_COOKIE_DOMAIN",
    "path": "SESSION_COOKIE_PATH",
}


class Finding(NamedTuple):
    """A weakness."""

    wrong: str
    fix: str


class Gap(NamedTuple):
    """Something that a check could not look at."""

    why: str


_Function = Callable[[Looked], Iterator[Finding | Gap]]


class Check(NamedTuple):
    """One check."""

    name: str
    page: str  # of the documentation
    run: _Function

    @property
    def about(self) -> str:
        """What it finds, in a line."""
        return (self.run.__doc__ or "").partition("\n")[0]


def check(name: str, page: str) -> Callable[[_Function], Check]:
    """Make a check of a function, whose docstring says what it finds."""
    return lambda function: Check(name, page, function)
