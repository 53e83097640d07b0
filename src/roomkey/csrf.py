"""Cross-site request forgery: a check of headers that needs no token, and tokens for apps that need them.

The check is that of Go 1.25 (`net/http.CrossOriginProtection`) and of datasette. OWASP's cheat sheet describes it under
"Fetch Metadata": browsers say with each request whether it comes from the same site, and scripts cannot alter that.

Tokens are the older way. The session keeps a secret, which is masked anew each time it is shown, so that compression
does not give it away (BREACH). A visitor without a session has a secret all the same, where the app is served over
HTTPS: it follows from a signed random value in a cookie (`roomkey.core.visitors`).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from roomkey.core.intents import CSRF
from roomkey.core.nearby import ask_store
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, CSRFError, SessionDataError
from roomkey.options import named_options
from roomkey.paths import Paths, checked_paths
from roomkey.web.error_pages import ErrorPage, ErrorPages
from roomkey.wire.card_header import SERVED_BY_HEADER, UNCHECKED
from roomkey.wire.user_ids import text_of
from roomkey.wire.whose import UserKey, Whose

__all__ = ["CSRFError", "CSRFMiddleware", "csrf_token", "verify_csrf_token"]

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
AnySession = MutableMapping[str, Any]  # Roomkey's, or another library's

_log = logging.getLogger("roomkey")

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 section 9.2.1
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SECRET_BYTES = 32
_MOST_SECRETS = 10  # of one user in one session
_SECRET = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(r"[A-Za-z0-9_\-]{86}")  # 64 bytes in base64url, without the padding
_CROSS_SITE = b"This request was made by another site, and is not allowed.\n"
_NO_TOKEN = b"This request brought no valid CSRF token, and is not allowed.\n"


@named_options()
class CSRFMiddleware:
    """Answers 403 to requests that another site's page had the browser make.

    Requests with a safe method pass: let none of them change anything. A request with neither `Sec-Fetch-Site` nor
    `Origin` passes: no browser made it, so it carries nobody's cookies. WebSocket handshakes are checked as well.
    Where a `SessionMiddleware` with `card_header` around this one has served the request, no cookie counts, and it
    passes. The header alone exempts no request.

    Args:
        app: the ASGI app to wrap.
        trusted_origins: origins that may make requests all the same, such as `"https://login.example.com"`.
        exempt_paths: paths that are not checked, such as a webhook's. A path that ends with `/` stands for everything
            below it. They count from the app's root, without the `root_path` of a server or a mount.
        tokens: unsafe requests also have to bring a token, in the header `X-CSRF-Token`. Where tokens come in a form
            field, leave this off, and call `verify_csrf_token` in the handler.
        error_page: makes the page of a 403. It is a function, asynchronous or not, of the scope and the `CSRFError`. It
            returns an ASGI app, such as a framework's response, or None for the plain answer. Without it, the app's own
            exception handler for `CSRFError` is asked.

    Raises:
        ConfigurationError: an origin is not valid, or a path does not begin with `/`.
    """

    def __init__(
        self,
        app: App,
        *,
        trusted_origins: Iterable[str] = (),
        exempt_paths: Iterable[str] = (),
        tokens: bool = False,
        error_page: ErrorPage | None = None,
    ) -> None:
        self.app = app
        self._pages = ErrorPages(error_page)
        self._trusted = frozenset(_checked_origin(origin) for origin in _several("trusted_origins", trusted_origins))
        self._exempt = Paths(checked_paths("exempt_paths", exempt_paths, "/webhooks/"))
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_exempt(scope):
            reason = self._cross_site(scope)
            if reason is not None:
                _log.warning("answered 403 to a cross-site request to %r: %s", scope["path"][:200], reason)
                await self._forbid(scope, send, _CROSS_SITE)
                return
            if self._tokens and scope["type"] == "http" and not await self._has_token(scope):
                _log.warning(
                    "answered 403 to a request to %r: no valid token in the header X-CSRF-Token; have the page send "
                    "csrf_token(session) there",
                    scope["path"][:200],
                )
                await self._forbid(scope, send, _NO_TOKEN)
                return
        await self.app(scope, receive, send)

    async def _forbid(self, scope: Scope, send: Any, body: bytes) -> None:
        if not await self._pages.answer(scope, send, CSRFError(body.decode().strip()), []):
            await _forbid(scope, send, body)

    def _is_exempt(self, scope: Scope) -> bool:
        if scope["type"] == "http" and scope["method"] in _SAFE:
            return True
        if self._exempt.match(scope) is not None:
            return True
        if not _is_served_by_header(scope):
            return False
        scope[UNCHECKED] = True  # a middleware further in, which serves a cookie, says that this is not enough
        return True

    def _cross_site(self, scope: Scope) -> str | None:
        headers = scope["headers"]
        origins = [value for name, value in headers if name == b"origin"]
        sites = {value for name, value in headers if name == b"sec-fetch-site"}
        if len(origins) > 1:
            return "several Origin headers"
        origin = _parsed(origins[0].decode("latin-1")) if origins else None
        if origin is not None and origin in self._trusted:
            return None
        if sites:
            # `none`: the user typed the address, or took a bookmark.
            return None if sites <= {b"same-origin", b"none"} else "Sec-Fetch-Site is neither same-origin nor none"
        if not origins:
            return None
        # An older browser. Only the host is compared: behind a proxy the server may not know the scheme. (Go does so.)
        hosts = [value for name, value in headers if name == b"host"]
        if origin is None:
            return f"the Origin {_shown(origins[0])} is no origin"
        if len(hosts) != 1:
            return f"there is no Host, or several, to compare the Origin {_shown(origins[0])} with"
        host = _parsed(f"{origin[0]}://{hosts[0].decode('latin-1')}")
        if host == origin:
            return None
        return (
            f"the Origin is {_shown(origins[0])} and the Host {_shown(hosts[0])}; if both are your site, have the "
            "proxy pass on the Host header, or add the Origin to trusted_origins"
        )

    async def _has_token(self, scope: Scope) -> bool:
        session = scope.get("session")
        if session is None:
            raise ConfigurationError(
                "CSRFMiddleware(tokens=True) finds no session; SessionMiddleware has to be outside of it: with "
                "add_middleware, add it after CSRFMiddleware"
            )
        found = [value for name, value in scope["headers"] if name == b"x-csrf-token"]
        if len(found) != 1:
            return False
        token = found[0].decode("latin-1")
        if verify_csrf_token(session, token):
            return True
        await ask_store(session)  # another process may have made the token just now
        return verify_csrf_token(session, token)


def _is_served_by_header(scope: Scope) -> bool:
    """Whether a middleware that ignores cookies says that it served the request: no browser sends its card by itself.

    What the request itself brings says nothing: a forged one may bring any header beside the cookie.
    """
    served = scope.get(SERVED_BY_HEADER)
    return served is not None and served is scope.get("session")


def csrf_token(session: AnySession, *, user_key: UserKey | None = None) -> str:
    """Return a token for this session's forms or scripts. Each call gives another text for the same secret.

    A visitor who has no session gets none for it, where `https_only` is True and `domain` is not set: the token is
    bound to a cookie of its own, which the response sends. Elsewhere a session begins. A browser that opens two pages
    at once, and has neither cookie yet, keeps what the later response sends: the token in the other page is worthless.

    A log-in, a log-out or a change of user makes a new secret. The tokens from before are worth nothing then.

    Args:
        session: `request.session`.
        user_key: where the session says whose it is, as `SessionConfig` takes it, if `session` is another library's.
            None: `"user_id"`. For Roomkey's sessions, `SessionConfig` says it.

    Raises:
        ConfigurationError: the session is Roomkey's, and its `user_key` is another one. The next log-in would drop the
            token.
        SessionDataError: the function of `user_key` raised something.
    """
    its_key = _key_of(session, user_key)
    if user_key is not None and (tuple(user_key) if isinstance(user_key, list) else user_key) != its_key:
        raise ConfigurationError(
            f"csrf_token: user_key is {user_key!r}, and SessionConfig's is {its_key!r}; give it there alone"
        )
    user = _user(session, user_key)
    visitor = _visitor(session, user, begins=True) if user is not None or not session else None
    if visitor is not None:
        return _masked(_secret_of(visitor))
    known = _secrets_for(user, session.get(CSRF))
    secret = known[-1] if known else secrets.token_bytes(_SECRET_BYTES)
    if not known:

        def add(kept: object) -> list[str | None]:
            # Pages of one session that are opened together each make one: all of them are good.
            others = _secrets_for(user, kept)[1 - _MOST_SECRETS :]
            return [user, *(each.hex() for each in (*others, secret))]  # text: other libraries keep what JSON has

        if isinstance(session, Session):
            session.change(CSRF, add, default=[])
        else:
            session[CSRF] = add(None)
    return _masked(secret)


def verify_csrf_token(session: AnySession, token: object, *, user_key: UserKey | None = None) -> bool:
    """Whether `token` was made by `csrf_token` for this session and the user that it has now. Nothing raises.

    Args:
        session: `request.session`.
        token: what the browser sent.
        user_key: as for `csrf_token`.
    """
    if not isinstance(token, str) or not _TEXT.fullmatch(token):
        return False
    masked = urlsafe_b64decode(token + "==")
    brought = _xor(masked[:_SECRET_BYTES], masked[_SECRET_BYTES:])
    try:
        user = _user(session, user_key)
    except SessionDataError:  # nobody knows whose it is
        return False
    known = _secrets_for(user, session.get(CSRF))
    visitor = _visitor(session, user, begins=False)
    if visitor is not None:
        known.append(_secret_of(visitor))
    return any(hmac.compare_digest(brought, secret) for secret in known)


def _secrets_for(user: str | None, kept: object) -> list[bytes]:
    """Return the secrets that were made for this user. `kept`: what the session has, the user and the secrets."""
    if not isinstance(kept, list) or not kept or kept[0] != user:
        return []
    return [bytes.fromhex(each) for each in kept[1:] if isinstance(each, str) and _SECRET.fullmatch(each)]


def _visitor(session: AnySession, user: str | None, *, begins: bool) -> bytes | None:
    """Return the signed value that the tokens of a visitor are bound to; None: there is none, or a user is logged in.

    Args:
        session: the request's.
        user: whose it is. The response takes back what the user brought of the visitor before.
        begins: whether the response is to give one, where the request brought none.
    """
    if not isinstance(session, Session) or session._origin is None:
        return None
    return session._attached().visitor(user, begins=begins)


def _secret_of(visitor: bytes) -> bytes:
    """Return the secret of a visitor's tokens. Only the server can make `visitor`, and scripts cannot read it."""
    return hashlib.sha256(b"roomkey: CSRF tokens of a visitor\0" + visitor).digest()


def _masked(secret: bytes) -> str:
    mask = secrets.token_bytes(_SECRET_BYTES)
    return urlsafe_b64encode(mask + _xor(mask, secret)).rstrip(b"=").decode()


def _key_of(session: AnySession, user_key: UserKey | None) -> UserKey | None:
    """Return where a session says whose it is. For Roomkey's sessions the configuration says it."""
    if isinstance(session, Session) and session._origin is not None:
        return session._attached().user_key
    return "user_id" if user_key is None else user_key


def _user(session: AnySession, user_key: UserKey | None) -> str | None:
    if isinstance(session, Session) and session._origin is not None:
        session._accessed = True
        return session._attached().present_user()
    key = "user_id" if user_key is None else user_key
    return text_of(session.get(key)) if isinstance(key, str) and "." not in key else Whose(key).text_in(dict(session))


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _parsed(origin: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an origin. None: it is not valid (`null`, or junk)."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    default = _PORTS.get(parts.scheme)
    if default is None:
        return None
    return parts.scheme, parts.hostname.rstrip("."), default if port is None else port


def _shown(header: bytes) -> str:
    """Return what a client sent, for the log: short, and without line breaks."""
    return repr(header[:100].decode("latin-1"))


def _several(option: str, values: Iterable[str]) -> Iterable[str]:
    if isinstance(values, str):
        raise ConfigurationError(f"{option}: got text; it takes a list")
    return values


def _checked_origin(origin: object) -> tuple[str, str, int]:
    parsed = _parsed(origin) if isinstance(origin, str) else None
    if parsed is None or "*" in parsed[1]:
        raise ConfigurationError(f"trusted_origins: got {origin!r}; it takes origins such as 'https://example.com'")
    return parsed


async def _forbid(scope: Scope, send: Any, body: bytes) -> None:
    kind = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": "cross-site"})  # the server answers 403
            return
        kind = "websocket.http"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": f"{kind}.response.start", "status": 403, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
