"""Streamed responses: what changes in the session after the first chunk is committed after the last one."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.http import FileResponse, HttpRequest
from django.http.response import HttpResponseBase

from roomkey.django.calls import Awaiting, Blocking, Calls, at_once
from roomkey.django.engine import SessionStore
from roomkey.errors import ResponseStarted

__all__ = ["watch"]


def watch(request: HttpRequest, response: HttpResponseBase, store: SessionStore) -> None:
    """Have a streamed response commit the session at its end. A file is sent as it is."""
    if response.streaming and not isinstance(response, FileResponse):
        streamed: Any = response
        kind = _AsyncStream if streamed.is_async else _Stream
        streamed.streaming_content = kind(streamed.streaming_content, request, store)


class _End:
    """The end of a stream.

    Args:
        chunks: what the app streams.
        request: what it streams it for.
        store: the session of the request.
    """

    def __init__(self, chunks: Any, request: HttpRequest, store: SessionStore) -> None:
        self._chunks, self._request, self._store = chunks, request, store
        self._is_over = False

    async def _commit(self, calls: Calls) -> None:
        store, self._is_over = self._store, True
        session = store.loaded
        if session is None:
            return
        store.settle(session)
        try:
            await calls.commit(session, status=200, headers=[], can_set_cookie=False)
        except ResponseStarted:
            if session._at.exists:
                raise
            match = self._request.resolver_match
            store.manager.reporter.warn_too_late(
                None if match is None else match.route,
                "a view" if match is None else f"the view of {match.route!r}",
                "What a stream does is too late",
            )

    def _give_up(self) -> None:
        """Save nothing more: it failed, or the client has gone."""
        session = self._store.loaded
        if not self._is_over and session is not None:
            self._store.manager.abandon(session)
        self._is_over = True


class _Stream(_End):
    """The chunks of a blocking iterator."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._chunks)
        except StopIteration:
            if not self._is_over:
                at_once(self._commit(Blocking(self._store.manager)))
            raise
        except BaseException:
            self._give_up()
            raise

    def close(self) -> None:
        """End the stream."""
        self._give_up()


class _AsyncStream(_End):
    """The chunks of an asynchronous iterator."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._all()

    async def _all(self) -> AsyncIterator[Any]:
        try:
            async for chunk in self._chunks:
                yield chunk
            await self._commit(Awaiting(self._store.manager))
        finally:
            self._give_up()
            close = getattr(self._chunks, "aclose", None)
            if close is not None and inspect.iscoroutinefunction(close):
                await close()
