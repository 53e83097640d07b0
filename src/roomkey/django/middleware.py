"""SessionMiddleware: Django's, with Roomkey's promises about responses."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from roomkey.django.calls import Awaiting, Blocking, Calls, at_once
from roomkey.django.cookies import keep_others, of_this_request, pairs_of, put
from roomkey.django.engine import SessionStore
from roomkey.django.expiry import closes_with_browser
from roomkey.django.streams import watch
from roomkey.errors import StoreUnavailable
from roomkey.request import Request
from roomkey.web.unavailable import PAGE, retry_headers

__all__ = ["SessionMiddleware"]

_INTERRUPTED = (
    "The request's session was deleted before the request completed. "
    "The user may have logged out in a concurrent request, for example."
)


class SessionMiddleware(DjangoMiddleware):  # type: ignore[misc]  # Django has no types of its own
    """Takes the place of Django's session middleware, under WSGI and ASGI.

    Beyond that, it answers 503 where the store is down, keeps responses with the cookie out of caches, sends the cookie
    again with each renewal, and saves what a streamed response changes.

    Args:
        get_response: what Django gives to a middleware.

    Raises:
        ConfigurationError: a setting is wrong.
        ImproperlyConfigured: `SESSION_ENGINE` is another one.

    Example:
        >>> SESSION_ENGINE = "roomkey.django"
        >>> MIDDLEWARE = ["roomkey.django.SessionMiddleware", "django.middleware.common.CommonMiddleware"]
    """

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if not issubclass(self.SessionStore, SessionStore):
            raise ImproperlyConfigured(
                f'roomkey.django.SessionMiddleware needs SESSION_ENGINE = "roomkey.django", which is '
                f"{settings.SESSION_ENGINE!r}: set it, or take Django's own session middleware"
            )
        self.SessionStore()  # with the settings, so that a wrong one stops the server, and not a request

    def unavailable(self, request: HttpRequest, error: StoreUnavailable) -> HttpResponse:
        """Return the response where the store is down. Override it for a page of your own.

        Args:
            request: it may have no session. Use none.
            error: the outage; `retry_after` says after how many seconds to try again.
        """
        return HttpResponse(PAGE, status=503, content_type="text/plain", headers=retry_headers(error))

    # --- what Django calls ------------------------------------------------------------------------------------------

    def process_request(self, request: HttpRequest) -> None:
        """Give the request its session, which is loaded when it is first used."""
        key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        in_thread = not getattr(self, "async_mode", False)
        request.session = self.SessionStore(key, request=_request_of(request, key), in_thread=in_thread)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer 503 where a view did not get over an outage."""
        error = StoreUnavailable.within(exception)
        if error is None:
            return None
        store = getattr(request, "session", None)
        if isinstance(store, SessionStore) and store.loaded is not None:
            store.manager.abandon(store.loaded)
        return self.unavailable(request, error)

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Commit the session.

        Raises:
            SessionInterrupted: the session was ended while the request ran, and its changes are lost: a 400.
        """
        store = getattr(request, "session", None)
        if not isinstance(store, SessionStore):
            other: HttpResponseBase = super().process_response(request, response)
            return other
        return at_once(self._finish(request, response, store, Blocking(store.manager)))

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self.process_request(request)
        response: HttpResponseBase = await self.get_response(request)
        store = getattr(request, "session", None)
        if not isinstance(store, SessionStore):
            return response
        return await self._finish(request, response, store, Awaiting(store.manager))

    # --- done once, for both ----------------------------------------------------------------------------------------

    async def _finish(
        self, request: HttpRequest, response: HttpResponseBase, store: SessionStore, calls: Calls
    ) -> HttpResponseBase:
        try:
            if settings.SESSION_SAVE_EVERY_REQUEST and store._key is not None:
                session = await store._open(calls)
                if session._at.exists:  # else there is nothing to renew
                    session.mark_accessed()
            if response.status_code == 500:
                _raise_outage(store)
            response = await self._commit(response, store, calls)
        except StoreUnavailable as error:
            made = self.unavailable(request, error)
            keep_others(response, made)
            response.close()
            response = await self._commit(made, store, calls, fails=True)
        watch(request, response, store)
        return response

    async def _commit(
        self, response: HttpResponseBase, store: SessionStore, calls: Calls, *, fails: bool = False
    ) -> HttpResponseBase:
        """Commit the session, and return the response that is to go out."""
        session, manager = store.loaded, store.manager
        if session is None:
            if manager.config.vary == "always":
                patch_vary_headers(response, ("Cookie",))
            return response
        saves = response.status_code < 500 and not fails  # as in Django
        if saves:
            store.settle(session)
        else:
            manager.abandon(session)
        given = pairs_of(response)
        made = await calls.commit(session, status=response.status_code, headers=given)
        fleeting = manager.config.session_cookie if closes_with_browser(session) else ""
        if made != given:
            response = of_this_request(response)
        put(response, given, made, fleeting=fleeting)
        is_lost = session._transaction is not None and manager.transaction(session).lost
        store.note_saved(session)
        if saves and is_lost:
            raise SessionInterrupted(_INTERRUPTED)
        return response


def _raise_outage(store: SessionStore) -> None:
    """Raise the outage that Django has made a 500 of: of an inner middleware, say."""
    session = store.loaded
    error = store.outage if session is None else store.manager.transaction(session).trouble
    if error is not None:
        raise error


def _request_of(request: HttpRequest, key: str | None) -> Request:
    """Return a request as Roomkey knows it.

    Args:
        request: Django's.
        key: the session cookie, as `request.COOKIES` has it. A middleware of the app's may have put it there, or taken
            it away.
    """
    sent, name = request.META, settings.SESSION_COOKIE_NAME
    cookie: str = sent.get("HTTP_COOKIE", "")
    if key is None:
        cookie = "" if f"{name}=" in cookie else cookie
    elif f"{name}={key}" not in cookie:
        cookie = f"{name}={key}; {cookie}" if _is_plain(key) else cookie
    headers = [("cookie", cookie)] if cookie else []
    if "HTTP_USER_AGENT" in sent:
        headers.append(("user-agent", sent["HTTP_USER_AGENT"]))
    address = sent.get("REMOTE_ADDR")
    port = str(sent.get("REMOTE_PORT") or "0")
    client = (address, int(port) if port.isdecimal() else 0) if address else None
    return Request(scheme=request.scheme or "http", path=request.path_info, headers=headers, client=client)


def _is_plain(key: str) -> bool:
    return key.isascii() and not set(key) & set('; ,"\\')
