"""The session of a test client: read and changed without a request, so that a test logs in with one line."""

from __future__ import annotations

from collections.abc import Iterable
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import Request as JarRequest

from roomkey.core.session import Session
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager
from roomkey.request import Request
from roomkey.testing.card_header import ClientHeader

__all__ = ["Client", "ClientSession", "client_session"]


class Client(Protocol):
    """A client of httpx, or a test client that is made of one: a base URL, and cookies in a standard `CookieJar`."""

    @property
    def base_url(self) -> Any: ...
    @property
    def cookies(self) -> Any: ...


def client_session(client: Client, manager: SessionManager) -> ClientSession:
    """Open the session of a test client, to look into it or to change it, and save it at the end of the block.

    The session is the one whose cookie the client has; without a cookie it is a new one. At the end it is saved as by a
    response: a log-in changes its ID, and `clear()` ends it. The client's jar then holds the cookie that a browser
    would hold. Where the block raises an exception, nothing more is saved. With `card_header` the card is one of the
    client's default headers, in the place of the cookie.

    Args:
        client: the test client of Starlette, FastAPI, Lilya, Ravyn or Litestar, or any client of httpx.
        manager: the app's. Where the app has only a `SessionConfig`, `SessionManager(config)` works on the same store.

    Returns:
        A context manager, for `with`, or `async with` in a test that is a coroutine.

    Raises:
        TypeError: it is no such client, or no manager.
        ConfigurationError: the client would not send the cookie back. The message says why, and what to change.
        StoreUnavailable: by `with`: the store does not answer.
        SessionDataError: by `with`: a value cannot be stored. Nothing was saved.

    Example:
        >>> from roomkey import SessionManager, SessionMiddleware, session_of
        >>> from roomkey.testing import client_session
        >>> from starlette.applications import Starlette
        >>> from starlette.requests import Request
        >>> from starlette.responses import JSONResponse
        >>> from starlette.testclient import TestClient
        >>> async def me(request: Request) -> JSONResponse:
        ...     return JSONResponse(session_of(request).get("user_id"))
        >>> manager = SessionManager(secret_key="k" * 32, store="memory://")
        >>> app = Starlette()
        >>> app.add_route("/me", me)
        >>> app.add_middleware(SessionMiddleware, config=manager)
        >>> client = TestClient(app)
        >>> with client_session(client, manager) as session:
        ...     session["user_id"] = 7
        >>> client.get("/me").json()
        7
    """
    return ClientSession(client, manager)


class ClientSession:
    """What `client_session` returns."""

    def __init__(self, client: Client, manager: SessionManager) -> None:
        if not isinstance(manager, SessionManager):
            raise TypeError(
                f"client_session: got {type(manager).__name__} as the manager; it takes a roomkey.SessionManager: the "
                "app's, or one that is made of the same SessionConfig"
            )
        self._manager = manager
        self._jar = _jar_of(client)
        self._url = _url_of(client, manager)
        name = manager.config.card_header
        self._header = None if name is None else ClientHeader(client, name)
        self._session: Session | None = None

    def __enter__(self) -> Session:
        self._session = self._manager.sync.load(self._request())
        return self._session

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        session = self._taken()
        if kind is not None:
            self._manager.abandon(session)
        self._keep(self._manager.sync.commit(session, headers=_NO_HEADERS))

    async def __aenter__(self) -> Session:
        self._session = await self._manager.load(self._request())
        return self._session

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        session = self._taken()
        if kind is not None:
            self._manager.abandon(session)
        self._keep(await self._manager.commit(session, headers=_NO_HEADERS))

    def _taken(self) -> Session:
        session, self._session = self._session, None
        assert session is not None
        return session

    def _request(self) -> Request:
        """Return the request that the client would send."""
        path, scheme = self._manager.config.path, urlsplit(self._url).scheme
        if self._header is not None:
            return Request(path=path, scheme=scheme, headers=self._header.sent())
        cookies = self._cookies()
        return Request(path=path, scheme=scheme, headers=[("cookie", cookies)] if cookies else [])

    def _cookies(self) -> str:
        """Return the `Cookie` header that the client would send. The jar knows which cookies are for this URL."""
        request = JarRequest(self._url)  # noqa: S310  # nothing is opened
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie") or ""

    def _keep(self, headers: Iterable[tuple[str, str]]) -> None:
        """Put the cookies of a response into the jar, as the client itself does."""
        if self._header is not None:
            self._header.keep(headers)
            return
        answer = Message()
        for name, value in headers:
            if name.lower() == "set-cookie":
                answer["Set-Cookie"] = value
        self._jar.extract_cookies(_Answer(answer), JarRequest(self._url))  # type: ignore[arg-type]  # noqa: S310
        kept = {pair.partition("=")[0] for pair in self._cookies().split("; ")}
        for value in answer.get_all("Set-Cookie", []):
            name, _, rest = value.partition("=")
            if name not in kept and not rest.startswith(";"):  # else it is taken back
                config = self._manager.config
                raise ConfigurationError(
                    f"client_session: the client does not keep the cookie {name} for {self._url}; the configuration "
                    f"has domain={config.domain!r} and path={config.path!r}: make the client with a base_url of that "
                    "domain, or the manager without"
                )


class _Answer:
    """As much of a response as a `CookieJar` looks at."""

    def __init__(self, headers: Message) -> None:
        self._headers = headers

    def info(self) -> Message:
        return self._headers


_NO_HEADERS: list[tuple[str, str]] = []


def _jar_of(client: object) -> CookieJar:
    jar = getattr(getattr(client, "cookies", None), "jar", None)
    if not isinstance(jar, CookieJar):
        raise TypeError(
            f"client_session: got {type(client).__name__} as the client; it takes the test client of Starlette, "
            "FastAPI, Lilya, Ravyn or Litestar, or a client of httpx"
        )
    return jar


def _url_of(client: Client, manager: SessionManager) -> str:
    """Return a URL of the app's for which the client is to send the session cookie."""
    base = urlsplit(str(client.base_url))
    if base.scheme not in ("http", "https") or not base.netloc:
        raise ConfigurationError(
            "client_session: the client has no base_url, so that nobody knows whom its cookies are for; make it with "
            'base_url="http://testserver"'
        )
    if manager.config.https_only is True and base.scheme != "https":
        raise ConfigurationError(
            f"client_session: https_only=True, and the client's base_url is {base.scheme}://{base.netloc}, over which "
            f'no client sends the cookie; make the client with base_url="https://{base.netloc}", or the manager with '
            "https_only=False"
        )
    return f"{base.scheme}://{base.netloc}{manager.config.path}"
