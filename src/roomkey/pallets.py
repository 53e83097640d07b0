"""What Flask and Quart have in common: settings, and a session with the attributes that theirs have."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

try:
    from flask.sessions import SecureCookieSession, SessionMixin
except ImportError as _error:
    raise ImportError('roomkey.flask needs Flask: pip install "roomkey[flask]"') from _error

from roomkey.config import OtherOptions, SessionConfig
from roomkey.core.intents import AS_IT_IS
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, ResponseStarted, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.web.plain_http import PlainHTTP
from roomkey.web.unavailable import PAGE, retry_headers, stands_on_all
from roomkey.wire.card_header import CardHeader
from roomkey.wire.keys import ADVICE

if TYPE_CHECKING:
    from flask.sansio.app import App
    from werkzeug.datastructures import Headers
    from werkzeug.sansio.request import Request as SansIORequest

__all__ = [
    "AppInterface",
    "AppManager",
    "FlaskSession",
    "NoSession",
    "RoomkeyExtension",
    "keep_others",
    "keep_session",
    "of_this_request",
    "put_headers",
    "refuse_without_session",
    "say_too_late",
]

Place = MutableMapping[str, Any]  # the WSGI environ or the ASGI scope of a request
_SESSION = "roomkey.session"  # where it has the request's session
_OUTAGE = "roomkey.outage"  # where it has a StoreUnavailable that the framework makes a 500 of
_SERVED = "roomkey.served"  # it is there where the framework serves a request

_Response = TypeVar("_Response")

_USER_ID = "_user_id"  # Flask-Login's key for who is logged in
_PERMANENT = "_permanent"  # Flask's key for `session.permanent`
_HTTPS_ONLY = "https_only"
# Options that Flask has settings of its own for.
_SETTINGS = {
    "secret_key": "SECRET_KEY",
    "session_cookie": "SESSION_COOKIE_NAME",
    "domain": "SESSION_COOKIE_DOMAIN",
    "path": "SESSION_COOKIE_PATH",
    _HTTPS_ONLY: "SESSION_COOKIE_SECURE",
    "same_site": "SESSION_COOKIE_SAMESITE",
    "partitioned": "SESSION_COOKIE_PARTITIONED",
    "persistent": "session.permanent",
}


class FlaskSession(Session, SessionMixin):
    """What `flask.session` is: a Roomkey `Session` with the attributes that Flask's sessions have."""

    _says_permanent = False  # whether this request has assigned `permanent`

    @property
    def permanent(self) -> bool:
        """Whether the session is kept for `PERMANENT_SESSION_LIFETIME` after its last use, and outlives the browser.

        It ends `absolute_timeout` after the log-in all the same. A session that holds nothing else is empty.
        """
        return bool(self.get(_PERMANENT, False))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self._says_permanent = True
        if bool(value) is not self.permanent:  # apps assign it before every request
            self[_PERMANENT] = bool(value)

    @property
    def new(self) -> bool:  # type: ignore[override]  # it is read, and never assigned
        """Whether this request found no session."""
        return self.is_new

    def _settle(self, app: AppManager) -> None:
        """Have the session live for as long as `permanent` says. `app` is about to commit it."""
        permanent: bool | None = dict.get(self, _PERMANENT)
        if permanent is None or self._intents.lifetime != AS_IT_IS:
            return
        if self._changed and dict.__len__(self) == 1:
            del self[_PERMANENT]
            return
        at, manager, put = self._at, app.manager, self._put or ()
        rules = manager.registry.rules
        is_remembered = rules.is_remembered(at.facts, at.user)
        is_log_in = rules.puts_user(self._plain(), put, at.user)
        if is_log_in and self._says_permanent:
            self[_PERMANENT] = permanent  # a session that becomes another user's keeps only what was assigned
        elif is_log_in and at.user is not None:
            return  # the user before said so
        if not permanent:
            if is_remembered:
                self.remember(None)
        elif is_log_in or not is_remembered or _PERMANENT in put:
            self.remember(app.lifetime)  # a change of user forgets it


class NoSession(SecureCookieSession):
    """Stands for the session of a request whose session could not be loaded. Only the error page sees it.

    Args:
        error: the outage.
    """

    def __init__(self, error: StoreUnavailable) -> None:
        super().__init__()
        self.error = error


class AppManager:
    """The session manager of one app. It is made when it is first needed, for Flask-Login may come after Roomkey.

    Args:
        app: the app, which has its settings.
        given: options that the code gives. Those of `app.config`, `ROOMKEY_*`, come first.

    Raises:
        ConfigurationError: an option or a setting is wrong.
    """

    def __init__(self, app: App, given: dict[str, Any]) -> None:
        options = given | app.config.get_namespace("ROOMKEY_")
        self._app, self._config = app, _config_of(app, options)
        self._has_user_key = "user_key" in options
        self._lock = threading.Lock()
        self._manager: SessionManager | None = None

    plain_http: PlainHTTP  # of the manager

    @property
    def is_live(self) -> bool:
        """Whether what is open is to end with its session."""
        return self._config.live

    @property
    def manager(self) -> SessionManager:
        """The app's session manager."""
        if self._manager is None:
            with self._lock:
                if self._manager is None:
                    self._manager = self._make_manager()
        return self._manager

    def _make_manager(self) -> SessionManager:
        config = self._config
        if self._is_for_flask_login():
            config = dataclasses.replace(config, user_key=_USER_ID)
        manager = SessionManager(config, session_class=FlaskSession)
        self.plain_http = PlainHTTP(config.session_cookie, manager.reporter, config.https_only is True)
        return manager

    def _is_for_flask_login(self) -> bool:
        return not self._has_user_key and hasattr(self._app, "login_manager")  # where Flask-Login puts itself

    def for_request(self) -> SessionManager:
        """Return the manager for a request. Raises ConfigurationError."""
        manager = self.manager
        if self._is_for_flask_login() and manager.config.user_key != _USER_ID:
            raise ConfigurationError(
                f"user_key: Flask-Login came to the app after Roomkey's manager was made: make its LoginManager before "
                f"the manager is used, or give user_key={_USER_ID!r}"
            )
        return manager

    @property
    def lifetime(self) -> float:
        """How many seconds a permanent session lives after its last use."""
        return self._app.permanent_session_lifetime.total_seconds()


def _config_of(app: App, options: dict[str, Any]) -> SessionConfig:
    """Return the configuration that an app's settings and these options make. Raises ConfigurationError."""
    settings, options = app.config, {**options}
    # Flask's default is False, as is what an app may set: both go by the request, and break no app on plain HTTP.
    https_only = settings["SESSION_COOKIE_SECURE"] or "auto"
    if options.get(_HTTPS_ONLY) is False and https_only == "auto" and options.get("card_header") is None:
        https_only = options.pop(_HTTPS_ONLY)
    for name, setting in _SETTINGS.items():
        if name in options:
            raise ConfigurationError(f"{name}: {setting} says it: set that, and leave the option out")
    if not settings["SECRET_KEY"]:
        raise ConfigurationError(f"SECRET_KEY: missing; set it before Roomkey(app); {ADVICE}")
    if not settings["SESSION_COOKIE_HTTPONLY"]:
        raise ConfigurationError("SESSION_COOKIE_HTTPONLY: the cookie is always HttpOnly: leave it out")
    same_site: Any = settings["SESSION_COOKIE_SAMESITE"]
    cookie: dict[str, Any] = {
        "session_cookie": settings["SESSION_COOKIE_NAME"],
        "domain": settings["SESSION_COOKIE_DOMAIN"] or None,
        "path": settings["SESSION_COOKIE_PATH"] or settings["APPLICATION_ROOT"],
        _HTTPS_ONLY: https_only,
        "same_site": same_site.lower() if isinstance(same_site, str) else same_site or "lax",
        "partitioned": settings.get("SESSION_COOKIE_PARTITIONED", False),
        "persistent": False,
    }
    if options.get("card_header") is not None:  # no cookie is sent: only what the app has set is to be refused
        usual = app.default_config
        cookie = {name: cookie[name] for name in cookie if settings.get(_SETTINGS[name]) != usual.get(_SETTINGS[name])}
    try:
        config = SessionConfig.from_options(
            {
                **options,
                "secret_key": [settings["SECRET_KEY"], *(settings.get("SECRET_KEY_FALLBACKS") or ())],
                **cookie,
            }
        )
    except ConfigurationError as error:
        about = _SETTINGS.get(str(error).partition(" ")[0].removesuffix(":"))
        raise (ConfigurationError(f"{about} is wrong: {error}") if about else error) from None
    lifetime = app.permanent_session_lifetime.total_seconds()
    if "absolute_timeout" not in options and lifetime > (config.absolute_timeout or lifetime):
        config = dataclasses.replace(config, absolute_timeout=lifetime)
    return config


class AppInterface:
    """What the session interfaces of Flask and Quart have in common.

    Args:
        app: the app's session manager.
    """

    def __init__(self, app: AppManager) -> None:
        self.app = app

    def abandon_in(self, place: Place) -> FlaskSession | None:
        """Abandon the session of a request, and return it. None: the request has none."""
        found = session_in(place)
        if found is not None:
            self.app.manager.abandon(found)
        return found

    def note_failure(self, place: Place, exception: BaseException) -> None:
        """Note that nobody has handled an error: its request saves nothing."""
        if self.abandon_in(place) is not None:
            place[_OUTAGE] = StoreUnavailable.within(exception)

    def look_for_https(self, request: SansIORequest, headers: list[tuple[str, str]]) -> None:
        """Say once where `https_only=True` is served over plain HTTP. `headers`: those of the response."""
        self.app.plain_http.look(request.scheme, request.headers.items(), headers)

    def is_served(self, place: Place) -> bool:
        """Whether the framework serves a request: else it is the `session_transaction()` of a test client."""
        return _SERVED in place

    def refuse_lost_card(self, headers: Headers) -> None:
        """Refuse a `session_transaction()` whose card the test client would not send: it keeps cookies only.

        Args:
            headers: what the commit has made, for a response that goes nowhere.

        Raises:
            ConfigurationError: a card was handed out, or taken back.
        """
        name = self.app.manager.config.card_header
        if name is not None and CardHeader(name).given_in in headers:
            raise ConfigurationError(
                f"session_transaction: with card_header={name!r} the test client keeps no card; log in by a request, "
                f"and send the card of its response ({CardHeader(name).given_in}) with the next ones"
            )

    def outage_of(self, place: Place) -> StoreUnavailable | None:
        """Take what `note_failure` has noted, where that was an outage."""
        outage: StoreUnavailable | None = place.pop(_OUTAGE, None)
        return outage

    def page(self, response_class: Callable[..., _Response], error: StoreUnavailable) -> _Response:
        """Return the page of a 503."""
        return response_class(PAGE, 503, retry_headers(error), mimetype="text/plain")


class RoomkeyExtension:
    """What the `Roomkey` of Flask and of Quart have in common: the apps that it serves, and their options."""

    def __init__(self, options: OtherOptions) -> None:
        self._options: dict[str, Any] = {**options}
        self._app: App | None = None  # the one app; None: there is none, or there are several
        self._count = 0  # apps

    def _manager_for(self, app: App, interface: object) -> AppManager:
        """Return the manager of an app, whose session interface is this so far. Raises ConfigurationError."""
        if isinstance(interface, AppInterface):
            raise ConfigurationError(f"init_app: the app {app.name!r} has Roomkey's sessions already; call it once")
        return AppManager(app, self._options)

    def _added(self, app: App, try_again: Callable[[StoreUnavailable], Any]) -> None:
        """Note that an app has its sessions. `try_again` answers 503 where the app does not do that itself."""
        app.extensions["roomkey"] = self
        if StoreUnavailable not in app.error_handler_spec[None][None]:
            app.register_error_handler(StoreUnavailable, try_again)
        self._count += 1
        self._app = app if self._count == 1 else None

    def _manager_of(self, interface: object, enter: str) -> SessionManager:
        if not isinstance(interface, AppInterface):
            raise RuntimeError(f"Roomkey serves no app here: call init_app(app), and use `{enter} app.app_context():`")
        return interface.app.manager


def session_in(place: Place) -> FlaskSession | None:
    """Return the session of a request; None: there is none, or it could not be loaded."""
    found = place.get(_SESSION)
    return found if isinstance(found, FlaskSession) else None


def keep_session(place: Place, found: FlaskSession | NoSession) -> None:
    """Have `session_in` find the session of a request."""
    place[_SESSION] = found


def refuse_without_session(place: Place) -> None:
    """Raise the outage of a request whose session could not be loaded, before anything of the app runs."""
    place[_SERVED] = True
    found = place.get(_SESSION)
    if isinstance(found, NoSession):
        raise found.error


def put_headers(into: Headers, given: list[tuple[str, str]], headers: list[tuple[str, str]]) -> None:
    """Put what a commit returned into a response's headers. `given`: those that they were."""
    if headers != given:
        into.clear()
        into.extend(headers)


def of_this_request(place: Place, response: _Response) -> _Response:
    """Return a response with headers of its own, where the session may write into them.

    An app may return one object for everybody. It would give the cookie to everybody, too.
    """
    session = session_in(place)
    if session is None or not session._accessed:
        return response
    made: Any = copy.copy(response)
    made.headers = made.headers.copy()
    return cast(_Response, made)


def say_too_late(manager: SessionManager, session: Session, error: ResponseStarted, route: str | None) -> None:
    """Say once for each route that a visitor's new session came too late. Every visitor would be a traceback.

    Args:
        manager: could not commit the session.
        session: of the request.
        error: what the commit raised.
        route: the name of the route.

    Raises:
        ResponseStarted: the error, where the visitor had a session.
    """
    if not session.is_new:
        raise error
    manager.reporter.warn_too_late(
        route,
        "a view" if route is None else f"the endpoint {route}",
        "What a stream or an accepted WebSocket does is too late",
    )


def keep_others(given: Headers, made: Headers) -> None:
    """Take into a 503 what the app puts on all its responses: what browsers need for CORS, say.

    Args:
        given: the headers of the response that does not go out.
        made: those of the one that does.
    """
    for name, value in given:
        if stands_on_all(name) and name not in made:
            made.add(name, value)
