"""Flask: `flask.session` is a Roomkey session.

    app.secret_key = os.environ["SECRET_KEY"]
    Roomkey(app, store="sqlite:///sessions.sqlite3")

Flask's own settings say what they always say: `SECRET_KEY`, `SECRET_KEY_FALLBACKS`, `SESSION_COOKIE_*` and
`PERMANENT_SESSION_LIFETIME`. Every other option of `SessionConfig` is given by keyword, or as `ROOMKEY_*` in
`app.config`. Everything is on `manager.sync`, so that it works under threads, gevent and forking servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack, cast

try:
    import flask
    from flask.sessions import SessionInterface, SessionMixin
except ImportError as _error:
    raise ImportError('roomkey.flask needs Flask: pip install "roomkey[flask]"') from _error

from roomkey.config import OtherOptions
from roomkey.errors import ConfigurationError, ResponseStarted, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.on_use import is_loaded, load_now, unloaded
from roomkey.pallets import (
    AppInterface,
    FlaskSession,
    NoSession,
    RoomkeyExtension,
    keep_others,
    keep_session,
    of_this_request,
    put_headers,
    refuse_without_session,
    say_too_late,
)
from roomkey.request import Request

if TYPE_CHECKING:
    from flask import Flask, Response

__all__ = ["FlaskSession", "Roomkey", "session"]

session: FlaskSession = cast(FlaskSession, flask.session)
"""`flask.session`, as what it is: a type checker then knows `session.change`."""


class Roomkey(RoomkeyExtension):
    """Gives a Flask app Roomkey's sessions.

    Args:
        app: the app, which has its settings already; None: call `init_app`.
        options: those of `SessionConfig`, but for those that Flask has settings for. `ROOMKEY_MAX_AGE` and its kin in
            `app.config` come first. `user_key` is by default `"_user_id"` where the app has a Flask-Login
            `LoginManager`, and `"user_id"` where it has none. `absolute_timeout` is by default 30 days, or
            `PERMANENT_SESSION_LIFETIME` if that is longer.

    Raises:
        ConfigurationError: an option or a setting is wrong, or there is no `SECRET_KEY`.

    Example:
        >>> from flask import Flask, session
        >>> from roomkey.flask import Roomkey
        >>> app = Flask(__name__)
        >>> app.secret_key = "k" * 32
        >>> roomkey = Roomkey(app, store="memory://")
        >>> @app.get("/")
        ... def index():
        ...     session["visits"] = session.get("visits", 0) + 1
        ...     return str(session["visits"])
        >>> client = app.test_client()
        >>> [client.get("/").text for _ in range(2)]
        ['1', '2']
    """

    def __init__(self, app: Flask | None = None, **options: Unpack[OtherOptions]) -> None:
        super().__init__(options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give an app its sessions. Call it once the app has its settings, and before its first request.

        Raises:
            ConfigurationError: as for `Roomkey`, or this is the app's second one.
        """
        interface = _Interface(self._manager_for(app, app.session_interface))
        if interface.app.is_live:  # not asked of the manager, which is made once Flask-Login has come to the app
            raise ConfigurationError(
                "live: a stream of Flask's runs in a thread, which nothing ends with its session; leave it out"
            )
        app.session_interface = interface
        app.before_request_funcs.setdefault(None, []).insert(0, interface.begin)
        app.after_request_funcs.setdefault(None, []).insert(0, _own)  # the first of the app's is called last
        flask.got_request_exception.connect(interface.fail, app)
        self._added(app, interface.try_again)

    @property
    def manager(self) -> SessionManager:
        """The session manager of the current app. `manager.sync` has its blocking calls.

        Raises:
            RuntimeError: there are several apps, and none is current; or `init_app` was not called.
        """
        app: Any = flask.current_app or self._app
        return self._manager_of(app.session_interface if app else None, "with")


class _Interface(AppInterface, SessionInterface):
    """The sessions of one app."""

    _unloaded = staticmethod(unloaded(FlaskSession))

    # --- what Flask asks ------------------------------------------------------------------------------------------

    def open_session(self, app: Flask, request: flask.Request) -> FlaskSession | NoSession:
        """Load the session of a request. Where the store is down, the first `before_request` function raises.

        A request for a static file has its session loaded where something uses it.
        """
        manager, environ = self.app.for_request(), request.environ
        asked = _request_of(request, manager.config.card_header)
        if manager.config.vary == "used" and request.path.startswith(self._static_paths(app)):

            def load() -> FlaskSession:
                found = cast(FlaskSession, manager.sync.load(asked))
                keep_session(environ, lazy)
                return found

            lazy = environ[_UNLOADED] = self._unloaded(load)
            return lazy
        found: FlaskSession | NoSession
        try:
            found = cast(FlaskSession, manager.sync.load(asked))
        except StoreUnavailable as error:
            found = NoSession(error)
        keep_session(environ, found)
        return found

    _paths: tuple[str, ...] | None = None  # with which the paths of static files begin

    def _static_paths(self, app: Flask) -> tuple[str, ...]:
        if self._paths is None:  # all routes are there: an app that serves takes no more
            rules = [rule.rule for rule in app.url_map.iter_rules() if _is_static(rule.endpoint)]
            self._paths = tuple(rule.partition("<")[0] for rule in rules)
        return self._paths

    def begin(self) -> None:
        """Go on with a request whose endpoint is known. It is the first of the app's `before_request` functions.

        Raises:
            StoreUnavailable: its session cannot be loaded.
        """
        refuse_without_session(flask.request.environ)
        lazy = flask.request.environ.pop(_UNLOADED, None)
        if lazy is not None and not _is_static(flask.request.endpoint):  # another route below the same path
            load_now(lazy)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Commit the session, and write into the response's headers what it owes. An outage makes a 503 of it.

        Raises:
            StoreUnavailable: in the test client's `session_transaction()`, where there is no response to be a 503.
            ConfigurationError: there too, where the card would be lost.
            SessionDataError: a value cannot be stored, or all of it is too large.
        """
        environ = flask.request.environ
        is_served = self.is_served(environ)  # else the test client's `session_transaction()` is to raise
        if isinstance(session, NoSession):
            if not is_served:
                raise session.error
            return
        assert isinstance(session, FlaskSession)
        if not is_loaded(session):
            return
        outage = self.outage_of(environ)
        if outage is None:
            try:
                self._commit(app, session, response)
                if not is_served:
                    self.refuse_lost_card(response.headers)
            except StoreUnavailable as error:
                if not is_served:
                    raise
                outage = error
        if outage is not None:
            _replace(response, app.make_response(app.handle_user_exception(outage)))
            self.app.manager.abandon(session)
            self._commit(app, session, response)
        if response.is_streamed and not response.direct_passthrough:
            response.response = _Stream(response.response, self.app.manager, session, flask.request.endpoint)

    def _commit(self, app: Flask, session: FlaskSession, response: Response) -> None:
        session._settle(self.app)
        given = list(response.headers)
        headers = self.app.manager.sync.commit(session, status=response.status_code, headers=given, raw=False)
        self.look_for_https(flask.request, headers)
        put_headers(response.headers, given, headers)

    # --- errors ---------------------------------------------------------------------------------------------------

    def fail(self, _: Flask, *, exception: BaseException, **__: Any) -> None:
        """Note that nobody has handled an error: its request saves nothing. A signal of Flask's calls it."""
        if flask.has_request_context():
            self.note_failure(flask.request.environ, exception)

    def try_again(self, error: StoreUnavailable) -> Response:
        """Answer 503. It is the error handler of an app that has none of its own for `StoreUnavailable`."""
        self.abandon_in(flask.request.environ)
        return self.page(flask.current_app.response_class, error)


def _own(response: Response) -> Response:
    return of_this_request(flask.request.environ, response)


class _Stream:
    """The chunks of a streamed response. After the last one, what changed since the start is committed.

    Args:
        chunks: what the app streams.
        manager: commits the session.
        session: of the request.
        endpoint: the name of the view.
    """

    def __init__(
        self, chunks: Iterable[Any], manager: SessionManager, session: FlaskSession, endpoint: str | None
    ) -> None:
        self._chunks, self._next = chunks, iter(chunks).__next__
        self._manager, self._session, self._endpoint = manager, session, endpoint
        self._is_over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._next()
        except StopIteration:
            if not self._is_over:
                self._is_over = True
                self._commit()
            raise
        except BaseException:
            self._give_up()
            raise

    def _commit(self) -> None:
        try:
            self._manager.sync.commit(self._session)
        except ResponseStarted as error:
            say_too_late(self._manager, self._session, error, self._endpoint)

    def close(self) -> None:
        """End the stream. Where it comes before the last chunk, the client has gone: nothing more is saved."""
        self._give_up()
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def _give_up(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._manager.abandon(self._session)


def _replace(response: Response, made: Response) -> None:
    """Make one response of another: the caller holds it."""
    close = getattr(response.response, "close", None)
    if close is not None:
        close()
    keep_others(response.headers, made.headers)
    response.response, response.status = made.response, made.status
    response.headers, response.direct_passthrough = made.headers, made.direct_passthrough


def _is_static(endpoint: str | None) -> bool:
    """Whether Flask serves static files there, of the app or of a blueprint."""
    return endpoint is not None and endpoint.rpartition(".")[2] == "static"


def _request_of(request: flask.Request, card_header: str | None) -> Request:
    environ, sent = request.environ, _SENT
    if card_header is not None:
        sent = (*sent, (card_header, f"HTTP_{card_header.upper().replace('-', '_')}"))
    headers = [(name, environ[key]) for name, key in sent if key in environ]
    client = (request.remote_addr, int(environ.get("REMOTE_PORT") or 0)) if request.remote_addr else None
    return Request(scheme=request.scheme, path=request.root_path + request.path, headers=headers, client=client)


_UNLOADED = "roomkey.unloaded"  # where the environ has a session that is loaded when it is used
_SENT: tuple[tuple[str, str], ...] = (("cookie", "HTTP_COOKIE"), ("user-agent", "HTTP_USER_AGENT"))
