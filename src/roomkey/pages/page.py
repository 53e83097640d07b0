"""What the pages have in common: who may see them, how a form is read and answered, what a session looks like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qs, quote, unquote

from roomkey.config import SessionConfig
from roomkey.core.agents import agent_from
from roomkey.core.loader import Loader
from roomkey.core.nearby import ask_store
from roomkey.core.renewal import RENEWALS
from roomkey.core.session import Session
from roomkey.core.users import SessionInfo
from roomkey.csrf import csrf_token, verify_csrf_token
from roomkey.errors import ConfigurationError, LoginTooOld
from roomkey.manager import SessionManager
from roomkey.options import Seconds, is_number, seconds_of
from roomkey.pages.rendering import Answer, Rendering, plain, see_other
from roomkey.pages.words import Catalogue
from roomkey.stores.base import UserIndex
from roomkey.stores.cookie import CookieStore
from roomkey.web.asgi import Receive, Scope, Send
from roomkey.web.connections import session_of
from roomkey.wire.whose import Whose

__all__ = ["Form", "Page", "Row", "query_of"]

Form = Mapping[str, str]

_LARGEST_FORM = 16 * 1024  # bytes; ours has a token and a handle
_MOST_FIELDS = 20
_NEXT = "{next}"


class Row(NamedTuple):
    """A session as a template shows it."""

    info: SessionInfo
    device: str
    kind: str  # computer, phone, tablet or program
    idle: float  # seconds since it was last used

    @property
    def handle(self) -> str:
        return self.info.handle


class Page:
    """An ASGI app of one page, with forms that it answers itself. See the two pages for the arguments."""

    template: ClassVar[str]

    def __init__(
        self,
        manager: SessionManager | SessionConfig,
        *,
        recent: Seconds | None = None,
        log_in_url: str | None = None,
        home_url: str | None = None,
        templates: str | os.PathLike[str] | None = None,
        language: str | None = None,
        words: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        config = manager.config if isinstance(manager, SessionManager) else manager
        if not isinstance(config, SessionConfig):
            raise ConfigurationError(
                f"manager: got {type(manager).__name__}; it takes the app's SessionManager or SessionConfig"
            )
        _check_config(config)
        seconds: float | None = seconds_of(recent)
        if seconds is not None and not (is_number(seconds) and seconds > 0):
            raise ConfigurationError(f"recent: got {recent!r}; it takes seconds above 0, a timedelta, or None")
        self.config = config
        self._whose = None if config.user_key is None else Whose(config.user_key)
        self._recent = seconds
        self._log_in_url = _checked_url("log_in_url", log_in_url)
        self._home_url = _checked_url("home_url", home_url)
        self._rendering = Rendering(templates, language, words)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})  # the server answers 403
        elif scope["type"] == "http":
            answer = await self._answer(scope, receive)
            await answer.send(send, has_body=scope["method"] != "HEAD")
        elif scope["type"] == "lifespan":
            await _live(receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        if not _is_root(scope):  # so that no cache takes the page for the picture that an address ends with
            return plain(404, "Not Found\n")
        method = scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            return plain(405, "Method Not Allowed\n", (b"allow", b"GET, HEAD, POST"))
        session = self._session_of(scope)
        await ask_store(session)
        refusal = await self._refusal(scope, session)
        if refusal is not None:
            return refusal
        if method != "POST":
            return await self._show(scope, session)
        form = await _form_from(receive)
        if form is None:
            return plain(413, "Content Too Large\n")
        if not verify_csrf_token(session, form.get("csrf")):
            return self._notice(scope, "stale", 403, (self._texts(scope).say("reload"), "?"))
        if not self._may_act(session):
            return await self._show(scope, session, status=403)
        return see_other(await self._act(scope, session, form))

    # --- what each page says --------------------------------------------------------------------------------------

    async def _refusal(self, scope: Scope, session: Session) -> Answer | None:
        """Return the answer to a person who may not see the page; None: this one may."""
        raise NotImplementedError

    async def _show(self, scope: Scope, session: Session, *, status: int = 200) -> Answer:
        """Return the page."""
        raise NotImplementedError

    async def _act(self, scope: Scope, session: Session, form: Form) -> str:
        """Do what a form asks. Returns the query of the page that says what was done."""
        raise NotImplementedError

    # --- what both use --------------------------------------------------------------------------------------------

    def _session_of(self, scope: Scope) -> Session:
        """Return the session that the middleware around the page put there. Raises ConfigurationError."""
        session = session_of(scope)
        origin = session._origin
        if not isinstance(origin, Loader) or origin.committer.config.carrier != self.config.carrier:
            raise ConfigurationError(
                f"{type(self).__name__}: the session of the request is of another SessionConfig than the page; give "
                "the page what the SessionMiddleware around it has"
            )
        return session

    def _user_of(self, session: Session) -> Any:
        """Return who is logged in; None: nobody."""
        assert self._whose is not None  # `_check_config` looked
        session._accessed = True
        return self._whose.value_in(session._plain()) or None

    def _may_act(self, session: Session) -> bool:
        """Whether the log-in is recent enough to end sessions."""
        if self._recent is None:
            return True
        try:
            session.require_recent(self._recent)
        except LoginTooOld:
            return False
        return True

    def _texts(self, scope: Scope) -> Catalogue:
        return self._rendering.catalogue(scope)

    def _rows(self, scope: Scope, sessions: list[SessionInfo]) -> list[Row]:
        now, texts, rows = self.config.clock(), self._texts(scope), []
        for info in sessions:
            agent = agent_from(info.user_agent)
            device = agent.name or agent.system
            if agent.name and agent.system:
                device = texts.say("on", name=agent.name, system=agent.system)
            if device is None:
                device = texts.say("not_recorded" if info.user_agent is None else "unknown_device")
            rows.append(Row(info, device, agent.kind, now - info.last_used_at.timestamp()))
        return rows

    def _page(self, scope: Scope, session: Session, *, status: int, query: Form, **values: object) -> Answer:
        """Return the page, with what each page of sessions shows."""
        may_act = self._may_act(session)
        return self._rendering.page(
            scope,
            self.template,
            status=status,
            may_act=may_act,
            csrf=lambda: csrf_token(session),  # a function: a page without a form makes no token
            done=_done(self._texts(scope), query),
            precision=self.config.idle_timeout / RENEWALS,
            log_in_url=self._log_in_link(scope),
            home_url=self._home_url,
            **values,
        )

    def _notice(self, scope: Scope, kind: str, status: int, link: tuple[str, str] | None) -> Answer:
        """Return a page that says what went wrong. `link`: its text, and where it leads."""
        return self._rendering.page(
            scope, "notice.html", status=status, kind=kind, link=link, done=None, home_url=self._home_url
        )

    def _log_in_link(self, scope: Scope) -> str | None:
        """Return where to log in, and then to come back here; None: the app has not said."""
        if self._log_in_url is None or _NEXT not in self._log_in_url:
            return self._log_in_url
        return self._log_in_url.replace(_NEXT, quote(_address_of(scope), safe="/"))


async def _live(receive: Receive, send: Send) -> None:
    """Serve the lifespan protocol: dispatchers that mount apps wait for each of them."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def query_of(scope: Scope) -> Form:
    """Return the first value of each name in a request's query."""
    return _pairs(scope.get("query_string", b""))


def _pairs(encoded: bytes) -> Form:
    try:
        found = parse_qs(encoded.decode("latin-1"), errors="replace", max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}


def _done(texts: Catalogue, query: Form) -> str | None:
    """Return what the last form did, in words; None: nothing. The address says which words, and none of its own."""
    done, count = query.get("done"), query.get("count", "")
    if done == "all" and count.isascii() and count.isdigit() and len(count) < 10:
        return texts.say("done_all", count=int(count))
    return texts.say(f"done_{done}") if done in ("one", "gone", "named") else None


async def _form_from(receive: Receive) -> Form | None:
    """Return the fields of a form; None: it is too large, or the browser has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > _LARGEST_FORM:
            return None
        if not message.get("more_body", False):
            return _pairs(bytes(body))


def _is_root(scope: Scope) -> bool:
    """Whether a request is for the page itself, and not for an address below it.

    A mount leaves its path in `path` and names it in `root_path`, or takes it out of `path`. Some servers do so with
    the path of the whole app.
    """
    path: str = scope.get("path") or "/"
    root: str = scope.get("root_path") or ""
    return root.rstrip("/").endswith(path.rstrip("/"))


def _address_of(scope: Scope) -> str:
    """Return the path of the page, as the browser has it."""
    path: str = scope.get("path") or "/"
    root: str = (scope.get("root_path") or "").rstrip("/")
    whole = unquote((scope.get("raw_path") or b"").decode("latin-1"))
    if path == "/" and whole.rstrip("/"):  # Litestar takes a mount out of `path`, and names it nowhere
        return whole if whole.startswith(root) else root + whole
    return path if path.startswith(root) else root + "/"


def _checked_url(option: str, url: object) -> str | None:
    if url is None:
        return None
    if not isinstance(url, str) or not url.startswith(("/", "https://", "http://")):
        raise ConfigurationError(
            f"{option}: got {url!r}; it takes a path such as '/login', an https:// address, or None"
        )
    return url


def _check_config(config: SessionConfig) -> None:
    """Raise ConfigurationError where nobody could list or end anything, or no browser would bring its session."""
    if config.user_key is None:
        raise ConfigurationError("user_key: it is None; the pages need it, to know who is logged in")
    if isinstance(config.store, CookieStore):
        raise ConfigurationError("store: cookie:// keeps nothing on the server: there is no list, and nothing to end")
    if not isinstance(config.store, UserIndex):
        raise ConfigurationError(f"store: {type(config.store).__name__} cannot find a user's sessions (no of_user)")
    if config.card_header is not None:
        raise ConfigurationError("card_header: no browser sends this header with a page; the pages need a cookie")
