"""The session of a test client: read and changed without a request, so that a test logs in with one line."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from roomkey.core.session import Session
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager
from roomkey.request import Request
from roomkey.testing.card_header import ClientHeader
from roomkey.testing.jars import Client, jar_of

__all__ = ["Client", "ClientSession", "client_session"]


def client_session(client: Client, manager: SessionManager) -> ClientSession:
    """Open the session of a test client, to look into it or to change it, and save it at the end of the block.

    The session is the one whose cookie the client has; without a cookie it is a new one. At the end it is saved as by a
    response: a log-in changes its ID, and `clear()` ends it. The client's jar then holds the cookie that a browser
    would hold. Where the block raises an exception, nothing more is saved. With `card_header` the client sends
    the card in that header with each request, in the place of the cookie.

    Args:
        client: the test client of Starlette, FastAPI, Lilya, Ravyn, Litestar, Flask, Quart, Django or aiohttp, or any
            client of httpx.
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
        self._jar = jar_of(client, manager)
        name = manager.config.card_header
        self._header = None if name is None else ClientHeader(client, name)
        self._session: Session | None = None

    def __enter__(self) -> Session:
        self._session = self._manager.sync.load(self._request())
        return self._session

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        session = self._taken(kind is not None)
        self._keep(self._manager.sync.commit(session, headers=_NO_HEADERS))

    async def __aenter__(self) -> Session:
        self._session = await self._manager.load(self._request())
        return self._session

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        session = self._taken(kind is not None)
        self._keep(await self._manager.commit(session, headers=_NO_HEADERS))

    def _taken(self, has_failed: bool) -> Session:
        session, self._session = self._session, None
        assert session is not None
        if has_failed:
            self._manager.abandon(session)
        else:
            self._jar.settle(session)
        return session

    def _request(self) -> Request:
        """Return the request that the client would send."""
        url = urlsplit(self._jar.url)
        if self._header is not None:
            headers = self._header.sent()
        else:
            cookies = self._jar.cookies()
            headers = [("cookie", cookies)] if cookies else []
        return Request(path=url.path, scheme=url.scheme, headers=headers)

    def _keep(self, headers: Iterable[tuple[str, str]]) -> None:
        """Put the cookies of a response into the jar, as the client itself does."""
        if self._header is not None:
            self._header.keep(headers)
            return
        values = [value for name, value in headers if name.lower() == "set-cookie"]
        self._jar.keep(values)
        kept = {pair.partition("=")[0] for pair in self._jar.cookies().split("; ")}
        for value in values:
            name, _, rest = value.partition("=")
            if name not in kept and not rest.startswith(";"):  # else it is taken back
                config = self._manager.config
                raise ConfigurationError(
                    f"client_session: the client does not keep the cookie {name} for {self._jar.url}; the "
                    f"configuration has domain={config.domain!r} and path={config.path!r}: {self._jar.advice}"
                )


_NO_HEADERS: list[tuple[str, str]] = []
