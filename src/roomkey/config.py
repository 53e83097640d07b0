"""SessionConfig: every option, checked once, when it is made."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from roomkey.called_elsewhere import CALLED_ELSEWHERE, LEAVE_OUT
from roomkey.clock import system_time
from roomkey.environment import in_terms_of_variables, options_from, variable_of
from roomkey.errors import ConfigurationError
from roomkey.option_types import CookieOptions, Options, OtherOptions, SessionOptions
from roomkey.options import is_number, named_options, seconds_of
from roomkey.paths import checked_paths
from roomkey.stores.base import Store, UserIndex, Watch
from roomkey.stores.cookie import CookieStore
from roomkey.stores.guard import check_near
from roomkey.stores.urls import store_from
from roomkey.wire.card_header import check_card_header
from roomkey.wire.codec import KEPT
from roomkey.wire.keys import ADVICE, KEY_TAKES, SecretKeys
from roomkey.wire.own import Encoders, checked_encoders
from roomkey.wire.site_data import checked_kinds
from roomkey.wire.whose import UserKey, checked_rotate_on, checked_user_key

if TYPE_CHECKING:
    from roomkey.events import ClientChanged, Subscriber
    from roomkey.legacy import LegacyReader

__all__ = ["OtherOptions", "SessionConfig", "SessionOptions"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")  # RFC 6265 section 4.1.1: a cookie name is a token
_PATH = re.compile(r"/[\x20-\x3a\x3c-\x7e]*")  # RFC 6265 section 4.1.1: no controls, no ";"
_DOMAIN = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?")
_LARGEST = 1e11  # seconds (3,000 years) or bytes. Infinity, NaN and numbers beyond a float are above it too
_MISSING = {"secret_key": f"{KEY_TAKES}; {ADVICE}"}


class _Default(int):
    """The default, told apart from the same number given by the app."""


@named_options(meant=CALLED_ELSEWHERE, leave_out=LEAVE_OUT, missing=_MISSING, shows_class=False)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """How sessions work in one app. Frozen, and checked when made.

    Spans of time are given in seconds, or as a `timedelta`. They are kept in seconds.

    Args:
        secret_key: signs the cookie. `str`, `bytes`, or an object that hides its text (Starlette's `Secret`, pydantic's
            `SecretStr`). A list rotates: the first signs, all verify. A key under 32 bytes warns
            (`WeakSecretWarning`): somebody who guesses it can sign cookies, though not guess the ID in them.
        session_cookie: the cookie's name, 1 to 256 characters of an RFC 6265 token.
        max_age: seconds a session lives after it was last used. 4 hours by default. (NIST SP 800-63B-4 section 2.2.3
            asks for reauthentication within at most 1 hour of inactivity at AAL2: lower it where that applies.) `None`,
            as Starlette takes it, means `persistent=False` with the default.
        same_site: `"lax"`, `"strict"` or `"none"`. `"none"` sends the cookie with other sites' requests and needs
            `https_only=True`.
        https_only: the `Secure` attribute, which has browsers send the cookie over HTTPS only. `"auto"`: wherever the
            request came over HTTPS, as the server resolved it. `True` is safer wherever HTTPS is served: a visitor's
            plain HTTP request then begins no session. `same_site="none"`, `partitioned` and the prefixes `__Host-` and
            `__Secure-` need it.
        persistent: `False`: the cookie goes with the browser. The server's clocks hold all the same.
        path: the cookie's `Path`.
        domain: the cookie's `Domain`. `None`: this host only, which is the safest.
        partitioned: the `Partitioned` attribute (CHIPS). It needs `https_only=True`.
        absolute_timeout: seconds a session lives at most, however busy (NIST SP 800-63B-4 section 2.1.3: 30 days at
            AAL1). It is never below `max_age`. Where it is not given, it is 30 days, or `max_age` if that is longer.
            `None`: no cap.
        anonymous_max_age: seconds a session that nobody is logged into lives after it was last used: a visitor's cart,
            or what a bot left behind. `None`: `max_age`, which it never exceeds. A shorter time keeps fewer records of
            bots, but visitors who come back later have lost their session. It counts for sessions that begin, and after
            a log-out. It needs `user_key`.
        store: a `Store`, the path of an SQLite file (`pathlib.Path`), or a URL: `memory://`,
            `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://` and its kin, `postgresql://`,
            `sqlalchemy+...://`, `cookie://`.
        user_key: where the session says whose it is: when that changes, the session ID rotates and the session is filed
            under that user. A key (`"user_id"`), a path into dicts (`"user.sub"`), several of them, or a function of
            the session. Of several, the first where somebody is says whose session it is, and each is a log-in. A
            session that has a key of just a path's name, dot and all, has the user there. A function gets a plain dict,
            looks keys up by their names, changes nothing, and returns an ID, or None for nobody. An ID and its text
            (`1` and `"1"`) are one user. `None` switches both off, and `Sessions.of` with them.
        rotate_on: session keys or paths, as of `user_key`, that say what the user may do, such as `("role", "mfa")`.
            When the value of one changes, appears or goes, the session ID rotates, and the old ID dies at once. It is
            no log-in: the moment of the last one and the timeouts stay. Each save then compares these values with what
            is stored.
        max_sessions_per_user: when a user has more sessions than this, the least recently used one ends. Last use is
            known to within a tenth of `max_age`. `None`: no limit. It needs `user_key`, and a store that can find a
            user's sessions.
        record_client: keep the IP address and the user agent of each log-in, for `Sessions`. Off by default: both are
            personal data. The address is the one that the server resolved (`scope["client"]`).
        country: a function that returns the country of an IP address, or None: from a database of your own. It is
            called at each log-in, in the request's task, and `SessionInfo.country` shows what it returned. What it
            raises is logged, and the log-in goes on. It needs `record_client`.
        seal: encrypt the data at rest, under a key derived from `secret_key` and the session ID. A stolen database says
            nothing of the data, even with the secret key. It needs `roomkey[crypto]`. Switching it on or off ends the
            sessions that there are. `cookie://` encrypts in any case.
        store_timeout: seconds one store operation may take before the answer is 503.
        max_bytes: the largest encoded size of a session, in bytes. A larger one is a `SessionDataError`.
        strict_types: a value of a subclass (an `IntEnum` member, a `Counter`, a named tuple) is a `SessionDataError`.
            Off by default: it is kept as its base type, and equal. The next request then finds a plain `int`, `dict` or
            `tuple`.
        card_header: for mobile apps and API clients: the card travels in this header in the place of a cookie.
            `"Authorization"` takes it as a bearer token, and the response hands a new one out as `Session-Card`. A
            header of your own (`"X-Auth-Token"`) has it both ways. An empty value takes it back. Cookies are ignored
            then, and none is sent. A page's scripts can read such a card, so browsers are safer with a cookie.
        encoders: classes that a session does not keep by itself, each with two functions: `{Money: (to_plain,
            from_plain)}`. The first returns plain data, which may hold values of other such classes, and the second
            makes a value of it. They count for exactly this class, in the whole process, where others for it are an
            error. The class's name is stored: a third entry is a name in its place, so that the class can be renamed.
            Where a name has no functions any more, its plain data is read.
        legacy: readers of another library's sessions (`roomkey.legacy`), which move in on first sight. Take them out
            again once the old cookies have expired. Until then, anybody who knows the old key can make up sessions.
        live: open WebSockets and streams end with their session: a log-out closes them in every process. The store
            tells of it, which takes one connection of each process. Off by default: what is open stays open.
        live_interval: seconds between two looks at the sessions of what is open, where the store cannot tell.
        vary: which responses say `Vary: Cookie`. `"used"`: those whose request used its session, so that caches may
            keep the others for everybody. `"always"`: all of them. Set that where code reads the session in a way that
            nobody can notice: C code that is handed a bare `scope["session"]`, say. It renews no session: for that,
            call `session.mark_accessed()`.
        clear_site_data: what a browser is to forget after a log-out, `["cache", "storage"]` say: each response to one
            sends it as `Clear-Site-Data`. Browsers heed it over HTTPS only. `"cookies"` is refused, for it would take
            the cookie of the next session too.
        exclude: paths that need no session, such as `"/health"`. A path that ends with `/` stands for everything below
            it. Nothing is loaded there, and to use the session is a `ConfigurationError`. They count from the app's
            root, without the `root_path` of a server or a mount.
        passive: paths, as for `exclude`, that keep no session alive: of a page that polls, say. The session is loaded
            and saved as elsewhere, and its expiry stays as it is. A session that begins there, a log-in, and
            `reauthenticated` and `remember`, have the expiry that they have elsewhere.
        near_cache: how many sessions are kept in the memory of each process, so that a session that was read a moment
            ago is not read again. `None`: none. The server says when they change (Redis, PostgreSQL and SQLite can).
            Another process may serve what was there up to `near_max_age` ago, also after a log-out. Together they
            take at most 4 KiB for each of this number.
        near_max_age: seconds that a session from memory may be out of date at most, whatever happens to the connection
            on which the server says what changes: from 0.1 to 60. 1 by default, which no user notices. While the
            connection is lost, no session is served from memory.
        fresh: paths, as for `exclude`, where the store is always asked. Without `near_cache` it always is.
        on_event: is called with each event of `roomkey.events`, in the request's task: be quick. An `async def` runs
            beside the requests, and no response waits for it: one event after the other, up to 1000 waiting. What it
            raises is logged, and affects no session.
        on_client_changed: is called with the session and a `ClientChanged` where a live session comes from another
            address or another device than its log-in, before the handler runs, with each such request. A phone changes
            its address all the time, so it is for you to decide: `session.clear()` logs out. What it raises fails the
            request. It needs `record_client`.
        clock: returns Unix seconds. Tests give one that they move.

    Raises:
        ConfigurationError: an option is wrong. The message names it, what it got and what it takes.
    """

    secret_key: Any
    session_cookie: str = "session"
    max_age: float | None = 14400  # 4 hours, in seconds
    same_site: Literal["lax", "strict", "none"] = "lax"
    https_only: bool | Literal["auto"] = "auto"
    persistent: bool = True
    path: str = "/"
    domain: str | None = None
    partitioned: bool = False
    absolute_timeout: float | None = _Default(2592000)  # 30 days, in seconds
    anonymous_max_age: float | None = None  # seconds
    store: Store | CookieStore | os.PathLike[str] | str = "sqlite:///sessions.sqlite3"
    user_key: UserKey | None = "user_id"
    rotate_on: Sequence[str] = ()
    max_sessions_per_user: int | None = None
    record_client: bool = False
    country: Callable[[str], str | None] | None = None
    seal: bool = False
    store_timeout: float = 2.0  # seconds
    max_bytes: int = 65536
    strict_types: bool = False
    card_header: str | None = None
    encoders: Encoders | None = None
    legacy: Sequence[LegacyReader] = ()
    live: bool = False
    live_interval: float = 10.0  # seconds
    vary: Literal["used", "always"] = "used"
    clear_site_data: Sequence[str] = ()
    exclude: Sequence[str] = ()
    passive: Sequence[str] = ()
    near_cache: int | None = None
    near_max_age: float = 1.0  # seconds
    fresh: Sequence[str] = ()
    on_event: Subscriber | None = None
    on_client_changed: Callable[[Any, ClientChanged], None] | None = None
    clock: Callable[[], float] = system_time

    if TYPE_CHECKING:  # what may be given is more than what is kept: a `timedelta` is kept in seconds

        def __init__(self, *, secret_key: Any, **options: Unpack[Options]) -> None: ...

    def __post_init__(self) -> None:
        self._set("secret_key", SecretKeys(self.secret_key))
        if self.max_age is None:
            self._set("max_age", SessionConfig.max_age)
            self._set("persistent", self.card_header is not None)  # which a header is not asked for
        self._check_numbers()
        self._check_cookie()
        self._set("clear_site_data", checked_kinds(self.clear_site_data))
        self._set("exclude", checked_paths("exclude", self.exclude, "/static/"))
        self._set("passive", checked_paths("passive", self.passive, "/poll/"))
        self._set("fresh", checked_paths("fresh", self.fresh, "/admin/"))
        self._set("user_key", checked_user_key(self.user_key))
        self._set("rotate_on", checked_rotate_on(self.rotate_on))
        if not callable(self.clock):
            self._fail("clock", "it takes a function that returns Unix seconds")
        if self.on_event is not None and not callable(self.on_event):
            self._fail("on_event", "it takes a function of one event, asynchronous or not, or None")
        for name in ("country", "on_client_changed"):
            if getattr(self, name) is not None:
                self._check_of_client(name)
        if self.encoders is not None:
            self._set("encoders", checked_encoders(self.encoders, KEPT))
        if self.legacy != ():
            from roomkey.legacy.readers import checked_readers  # here, because few apps move in

            self._set("legacy", checked_readers(self.legacy))
        self._set("store", store_from(self.store, clock=self.clock))
        self._check_limit()
        self._check_near()
        self._check_encryption()
        self._check_header()
        if self.live and not isinstance(self.store, Watch):
            self._fail("live", f"{type(self.store).__name__} cannot tell what ends (no watch)")

    def _check_header(self) -> None:
        if self.card_header is not None:
            names = (*CookieOptions.__annotations__, "legacy")
            given = [name for name in names if getattr(self, name) != getattr(type(self), name)]
            check_card_header(self.card_header, given + ["store"] * isinstance(self.store, CookieStore))

    @property
    def carrier(self) -> tuple[str, str]:
        """What has the card, `"cookie"` or `"header"`, and its name."""
        return ("cookie", self.session_cookie) if self.card_header is None else ("header", self.card_header.lower())

    def _check_of_client(self, name: str) -> None:
        function = getattr(self, name)
        if not callable(function) or inspect.iscoroutinefunction(function):
            self._fail(name, "it takes a plain function, or None")
        if not self.record_client:
            self._fail(name, "it needs record_client=True")

    def _check_limit(self) -> None:
        limit = self.max_sessions_per_user
        if limit is None:
            return
        if type(limit) is not int or limit < 1:
            self._fail("max_sessions_per_user", "it takes a whole number above 0, or None")
        if self.user_key is None:
            self._fail("max_sessions_per_user", "it needs a user_key, to know whose session it is")
        if not isinstance(self.store, UserIndex):
            self._fail("max_sessions_per_user", f"{type(self.store).__name__} cannot find a user's sessions")

    def _check_near(self) -> None:
        age = seconds_of(self.near_max_age)
        if not is_number(age) or not 0.1 <= age <= 60:
            self._fail("near_max_age", "it takes a number of seconds from 0.1 to 60, or a timedelta")
        self._set("near_max_age", age)
        if self.near_cache is not None:
            if type(self.near_cache) is not int or self.near_cache < 1:
                self._fail("near_cache", "it takes a whole number above 0, or None")
            check_near(self.store)

    def _check_encryption(self) -> None:
        if not self.seal and not isinstance(self.store, CookieStore):
            return
        try:
            import roomkey.wire.seal  # noqa: F401  # here, because few apps encrypt
        except ConfigurationError as error:
            option = "seal: got True" if self.seal else "store: got cookie://"
            raise ConfigurationError(f"{option}; {error}") from error

    def _check_numbers(self) -> None:
        for name in ("max_age", "store_timeout", "live_interval", "absolute_timeout", "anonymous_max_age", "max_bytes"):
            given = getattr(self, name)
            if given is None and name in ("absolute_timeout", "anonymous_max_age"):
                continue
            value = given if name == "max_bytes" else seconds_of(given)
            if not is_number(value) or not 0 < value < _LARGEST:
                unit = "bytes above 0" if name == "max_bytes" else "seconds above 0, or a timedelta"
                self._fail(name, f"it takes a number of {unit}")
            self._set(name, value)
        self._check_absolute_timeout()
        self._check_anonymous_max_age()

    def _check_absolute_timeout(self) -> None:
        if self.absolute_timeout is None:
            return
        if isinstance(self.absolute_timeout, _Default):
            self._set("absolute_timeout", _Default(max(ceil(self.idle_timeout), SessionConfig.absolute_timeout or 0)))
        if self.absolute_timeout < self.idle_timeout:
            self._fail(
                "absolute_timeout",
                f"it is never below max_age ({self.max_age}): give a higher one or a lower max_age, leave it out, "
                "or give None for no cap",
            )

    def _check_anonymous_max_age(self) -> None:
        if self.anonymous_max_age is None:
            return
        if self.anonymous_max_age > self.idle_timeout:
            self._fail("anonymous_max_age", f"it is never above max_age ({self.max_age}): give a lower one, or None")
        if self.user_key is None:
            self._fail("anonymous_max_age", "it needs a user_key, to know who is logged in")

    def _check_cookie(self) -> None:
        name = self.session_cookie
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            self._fail("session_cookie", "it takes 1 to 256 letters, digits or any of !#$%&'*+-.^_`|~")
        if type(self.https_only) is not bool and self.https_only != "auto":
            self._fail("https_only", "it takes True, False or 'auto'")
        for option in ("persistent", "partitioned", "record_client", "seal", "live", "strict_types"):
            if type(getattr(self, option)) is not bool:
                self._fail(option, "it takes True or False")
        if self.same_site not in ("lax", "strict", "none"):
            self._fail("same_site", "it takes 'lax', 'strict' or 'none'")
        if self.vary not in ("used", "always"):
            self._fail("vary", "it takes 'used' or 'always'")
        if not isinstance(self.path, str) or not _PATH.fullmatch(self.path):
            self._fail("path", "it takes a path that begins with '/' and holds no ';'")
        if self.domain is not None and not (isinstance(self.domain, str) and _DOMAIN.fullmatch(self.domain)):
            self._fail("domain", "it takes a host name, or None")
        if self.same_site == "none" and self.https_only is not True:
            self._fail("same_site", "'none' needs https_only=True: browsers drop the cookie otherwise")
        if self.partitioned and self.https_only is not True:
            self._fail("partitioned", "it needs https_only=True: browsers drop the cookie otherwise")
        # RFC 6265bis section 4.1.3. Browsers compare the prefixes without case.
        prefix = name.lower()
        if prefix.startswith(("__host-", "__secure-")) and self.https_only is not True:
            self._fail("session_cookie", "this prefix needs https_only=True")
        if prefix.startswith("__host-") and (self.path != "/" or self.domain is not None):
            self._fail("session_cookie", "the prefix __Host- needs path='/' and no domain")

    @property
    def idle_timeout(self) -> float:
        """`max_age` as a plain number of seconds."""
        assert self.max_age is not None  # __post_init__ replaced it
        return self.max_age

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _fail(self, option: str, takes: str) -> None:
        raise ConfigurationError(f"{option}: got {getattr(self, option)!r}; {takes}")

    def model_dump(self, **_: Any) -> Any:
        """Raise ConfigurationError: Ravyn, which calls this, takes a class of its own."""
        raise ConfigurationError("session_config: on Ravyn, import SessionConfig from roomkey.ravyn")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # frozen, and the store in it is one of a kind

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """Make a config from keyword options.

        Raises:
            ConfigurationError: an option is unknown, missing or wrong.
        """
        return cls(**options)

    @classmethod
    def from_env(cls, **options: Unpack[SessionOptions]) -> Self:
        """Make a config from environment variables: `ROOMKEY_SECRET_KEY`, `ROOMKEY_STORE`, `ROOMKEY_MAX_AGE` and so on.

        A text is read as its option's type: a number, a number of seconds, `true` or `false`, or text. `none` is None.
        A JSON list of texts in `ROOMKEY_SECRET_KEY` rotates. What is no text (such as `legacy` and `clock`) has no
        variable.

        Args:
            options: count in the place of their variables.

        Raises:
            ConfigurationError: an option is unknown, missing or wrong. The message names the variable or the option.
        """
        kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        read = options_from(os.environ, kinds, but=options, meant=CALLED_ELSEWHERE, leave_out=LEAVE_OUT)
        if "secret_key" not in read and "secret_key" not in options:
            raise ConfigurationError(f"{variable_of('secret_key')}: missing; set it, or give secret_key; {ADVICE}")
        try:
            return cls.from_options({**read, **options})
        except ConfigurationError as error:
            text = in_terms_of_variables(str(error), read)
            if text is None:
                raise
        raise ConfigurationError(text)
