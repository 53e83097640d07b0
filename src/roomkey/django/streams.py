"""Streamed responses: what changes in the session after the first chunk is committed after the last one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
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
        wrap: Any = _all_awaited if streamed.is_async else _all
        streamed.streaming_content = wrap(streamed.streaming_content, request, store)


# A stream that fails, or whose client goes, does not come to the commit.


def _all(chunks: Iterator[Any], request: HttpRequest, store: SessionStore) -> Iterator[Any]:
    yield from chunks
    at_once(_commit(request, store, Blocking(store.manager)))


async def _all_awaited(
    chunks: AsyncGenerator[Any, None], request: HttpRequest, store: SessionStore
) -> AsyncIterator[Any]:
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        await chunks.aclose()
    await _commit(request, store, Awaiting(store.manager))


async def _commit(request: HttpRequest, store: SessionStore, calls: Calls) -> None:
    session = store.loaded
    if session is None:
        return
    store.settle(session)
    try:
        await calls.commit(session, status=200, headers=[], can_set_cookie=False)
    except ResponseStarted:
        if not session.is_new:
            raise
        match = request.resolver_match
        store.manager.reporter.warn_too_late(
            None if match is None else match.route,
            "a view" if match is None else f"the view of {match.route!r}",
            "What a stream does is too late",
        )
