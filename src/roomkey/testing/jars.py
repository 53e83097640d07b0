"""Where test clients keep their cookies. `jar_of` knows the kinds; no framework is imported for it."""

from __future__ import annotations

from collections.abc import Callable
from email.message import Message
from http.cookiejar import CookieJar
from http.cookies import SimpleCookie
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import Request as JarRequest
from wsgiref.util import setup_testing_defaults

from roomkey.core.session import Session
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager

__all__ = [
    "AiohttpClient",
    "Client",
    "CookiesClient",
    "Jar",
    "QuartClient",
    "WerkzeugClient",
    "jar_of",
]


class CookiesClient(Protocol):
    """A client of httpx, a test client that is made of one, or one of Django's."""

    @property
    def cookies(self) -> Any: ...


class WerkzeugClient(Protocol):
    """The test client of Flask, or of any WSGI app."""

    @property
    def application(self) -> Any: ...


class QuartClient(Protocol):
    """The test client of Quart."""

    @property
    def cookie_jar(self) -> Any: ...


class AiohttpClient(Protocol):
    """The test client of aiohttp."""

    @property
    def session(self) -> Any: ...
    @property
    def make_url(self) -> Any: ...


Client = CookiesClient | WerkzeugClient | QuartClient | AiohttpClient


class Jar:
    """The cookies of one test client.

    Args:
        client: the client.
        manager: whose cookie is to be kept there.

    Raises:
        ConfigurationError: the client would not send the cookie back.
    """

    advice = "make the client with a base_url of that domain, or the manager without"  # where a cookie is not kept

    def __init__(self, client: Any, manager: SessionManager) -> None:
        self._client = client
        self.url: str = self._url_of(client, manager)  # of the app, where the client is to send the session cookie

    def _url_of(self, client: Any, manager: SessionManager) -> str:
        return f"http://localhost{manager.config.path}"

    def cookies(self) -> str:
        """Return the `Cookie` header that the client would send."""
        raise NotImplementedError

    def keep(self, values: list[str]) -> None:
        """Take what a response's `Set-Cookie` headers say, as the client itself does."""
        raise NotImplementedError

    def settle(self, session: Session) -> None:
        """Do what the framework does with a session before it is committed."""


class _Httpx(Jar):
    """Clients that are made of httpx: a standard `CookieJar`, and a base URL."""

    @staticmethod
    def fits(client: Any) -> bool:
        return isinstance(getattr(getattr(client, "cookies", None), "jar", None), CookieJar)

    def _url_of(self, client: Any, manager: SessionManager) -> str:
        base = urlsplit(str(getattr(client, "base_url", "")))
        if base.scheme not in ("http", "https") or not base.netloc:
            raise ConfigurationError(
                "client_session: the client has no base_url, so that nobody knows whom its cookies are for; make it "
                'with base_url="http://testserver"'
            )
        if manager.config.https_only is True and base.scheme != "https":
            raise ConfigurationError(
                f"client_session: https_only=True, and the client's base_url is {base.scheme}://{base.netloc}, over "
                f'which no client sends the cookie; make the client with base_url="https://{base.netloc}", or the '
                "manager with https_only=False"
            )
        return f"{base.scheme}://{base.netloc}{manager.config.path}"

    @property
    def _jar(self) -> CookieJar:
        jar: CookieJar = self._client.cookies.jar
        return jar

    def cookies(self) -> str:
        request = JarRequest(self.url)  # noqa: S310  # nothing is opened
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie") or ""

    def keep(self, values: list[str]) -> None:
        answer = Message()
        for value in values:
            answer["Set-Cookie"] = value
        self._jar.extract_cookies(_Answer(answer), JarRequest(self.url))  # type: ignore[arg-type]  # noqa: S310


class _Answer:
    """As much of a response as a `CookieJar` looks at."""

    def __init__(self, headers: Message) -> None:
        self._headers = headers

    def info(self) -> Message:
        return self._headers


class _Pallets(Jar):
    """What the test clients of Flask and Quart have in common: the app's settings, and `session.permanent`."""

    advice = "set SERVER_NAME to a host of that domain, or leave the domain out"
    app: Any

    def _url_of(self, client: Any, manager: SessionManager) -> str:
        host = getattr(self.app, "config", {}).get("SERVER_NAME") or "localhost"
        return f"http://{host}{manager.config.path}"

    def settle(self, session: Session) -> None:
        settle = getattr(session, "_settle", None)
        manager = getattr(getattr(self.app, "session_interface", None), "app", None)
        if settle is not None and manager is not None:
            settle(manager)


class _Werkzeug(_Pallets):
    """Flask's, and Werkzeug's own for any WSGI app. The methods are those by which `session_transaction` works."""

    @staticmethod
    def fits(client: Any) -> bool:
        return hasattr(client, "_add_cookies_to_wsgi") and hasattr(client, "_update_cookies_from_response")

    def _url_of(self, client: Any, manager: SessionManager) -> str:
        if client._cookies is None and manager.config.card_header is None:
            raise _without_cookies()
        self.app = client.application
        return super()._url_of(client, manager)

    def cookies(self) -> str:
        url = urlsplit(self.url)
        environ: dict[str, Any] = {"HTTP_HOST": url.netloc, "SCRIPT_NAME": "", "PATH_INFO": url.path}
        setup_testing_defaults(environ)
        self._client._add_cookies_to_wsgi(environ)
        cookies: str = environ.get("HTTP_COOKIE", "")
        return cookies

    def keep(self, values: list[str]) -> None:
        url = urlsplit(self.url)
        self._client._update_cookies_from_response(url.hostname, url.path, values)


class _Quart(_Pallets, _Httpx):
    """Quart's: it sends every cookie of its jar, for every URL."""

    @staticmethod
    def fits(client: Any) -> bool:
        return hasattr(client, "websocket_connection_class") and hasattr(client, "cookie_jar")

    def _url_of(self, client: Any, manager: SessionManager) -> str:
        if client.cookie_jar is None and manager.config.card_header is None:
            raise _without_cookies()
        self.app = client.app
        return super()._url_of(client, manager)

    @property
    def _jar(self) -> CookieJar:
        jar: CookieJar = self._client.cookie_jar
        return jar

    def cookies(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._jar)


class _Django(Jar):
    """Django's `Client` and `AsyncClient`: cookies by their names, which are sent for every URL."""

    @staticmethod
    def fits(client: Any) -> bool:
        return isinstance(getattr(client, "cookies", None), SimpleCookie)

    def cookies(self) -> str:
        return "; ".join(f"{morsel.key}={morsel.coded_value}" for morsel in self._client.cookies.values())

    def keep(self, values: list[str]) -> None:
        for value in values:
            pair, *attributes = value.split(";")
            name, _, content = pair.partition("=")
            if not content:  # it is taken back
                self._client.cookies.pop(name, None)
                continue
            self._client.cookies[name] = content
            morsel = self._client.cookies[name]
            for attribute in attributes:
                key, _, said = attribute.strip().partition("=")
                if morsel.isReservedKey(key):
                    morsel[key] = said or True


class _Aiohttp(Jar):
    """aiohttp's `TestClient`, whose server runs."""

    advice = (
        "the client's server is on an IP address and speaks HTTP: make the manager without a domain and with "
        "https_only=False, and the client without a cookie_jar of its own"
    )

    @staticmethod
    def fits(client: Any) -> bool:
        jar = getattr(getattr(client, "session", None), "cookie_jar", None)
        return hasattr(client, "make_url") and hasattr(jar, "filter_cookies")

    def _url_of(self, client: Any, manager: SessionManager) -> str:
        if client.port is None:
            raise ConfigurationError(
                "client_session: the client's server has not started, so that nobody knows whom its cookies are for; "
                "open it before: `async with TestClient(TestServer(app)) as client:`"
            )
        return str(client.make_url(manager.config.path))

    def cookies(self) -> str:
        # A URL is of yarl's own type, which the client makes.
        morsels = self._client.session.cookie_jar.filter_cookies(self._client.make_url(urlsplit(self.url).path))
        return "; ".join(f"{morsel.key}={morsel.coded_value}" for morsel in morsels.values())

    def keep(self, values: list[str]) -> None:
        url = self._client.make_url(urlsplit(self.url).path)
        for value in values:
            said: SimpleCookie = SimpleCookie()
            said.load("; ".join(part for part in value.split("; ") if part != "Partitioned"))  # not known before 3.14
            self._client.session.cookie_jar.update_cookies(said, url)


_KINDS: tuple[tuple[Callable[[Any], bool], type[Jar]], ...] = tuple(
    (kind.fits, kind) for kind in (_Httpx, _Django, _Werkzeug, _Quart, _Aiohttp)
)


def jar_of(client: object, manager: SessionManager) -> Jar:
    """Return the cookies of a test client.

    Args:
        client: the client.
        manager: whose cookie is to be kept there.

    Raises:
        TypeError: it is no client of a known kind.
        ConfigurationError: the client would not send the cookie back.
    """
    for fits, kind in _KINDS:
        if fits(client):
            return kind(client, manager)
    raise TypeError(
        f"client_session: got {type(client).__name__} as the client; it takes the test client of Starlette, FastAPI, "
        "Lilya, Ravyn, Litestar, Flask, Quart, Django or aiohttp, or a client of httpx"
    )


def _without_cookies() -> ConfigurationError:
    return ConfigurationError(
        "client_session: the client was made with use_cookies=False, so that it sends no cookie; leave that out"
    )
