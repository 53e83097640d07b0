"""Django's streamed responses: what the session is given after the first chunk."""

import logging

import pytest
from django.http import FileResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path

from roomkey.django import SessionMiddleware, get_manager
from roomkey.errors import ResponseStarted
from roomkey.stores.memory import MemoryStore
from tests import django_settings, django_site
from tests.manager.parts import WaitingStore


def stream(request):
    def chunks():
        yield b"begun"
        request.session["streamed"] = request.session.get("n")
        yield b"ended"

    return StreamingHttpResponse(chunks())


async def async_stream(request):
    async def chunks():
        yield b"begun"
        await request.session.aset("streamed", await request.session.aget("n"))
        yield b"ended"

    return StreamingHttpResponse(chunks())


def failing(request):
    def chunks():
        yield b"begun"
        request.session["streamed"] = True
        raise ZeroDivisionError

    return StreamingHttpResponse(chunks())


def file(request):
    request.session["sent"] = True
    return FileResponse(open(__file__, "rb"))


urlpatterns = [
    *django_site.urlpatterns,
    path("stream", stream),
    path("a/stream", async_stream),
    path("failing", failing),
    path("file", file),
]


@pytest.fixture(autouse=True)
def _settings():
    with override_settings(**django_settings.HERE | {"ROOT_URLCONF": __name__}, ROOMKEY={"store": MemoryStore()}):
        yield


def test_a_stream_saves_at_its_end():
    """What it puts in after its first chunk, also where nothing has used the session before."""
    client = Client()
    client.get("/count")
    chunks = iter(client.get("/stream").streaming_content)
    assert next(chunks) == b"begun" and client.get("/").json() == {"n": 1}
    assert list(chunks) == [b"ended"] and client.get("/").json() == {"n": 1, "streamed": 1}


async def test_an_asynchronous_stream_saves_at_its_end():
    """The same under ASGI."""
    client = AsyncClient()
    await client.get("/a/count")
    chunks = [chunk async for chunk in (await client.get("/a/stream")).streaming_content]
    assert chunks == [b"begun", b"ended"] and (await client.get("/a/")).json() == {"n": 1, "streamed": 1}


async def test_a_plain_stream_under_asgi():
    """Django reads it in a thread; it saves all the same, in a store that waits too."""
    with override_settings(ROOMKEY={"store": WaitingStore()}):
        client = AsyncClient()
        await client.get("/count")
        with pytest.warns(Warning, match="must consume synchronous iterators"):
            assert [chunk async for chunk in await client.get("/stream")] == [b"begun", b"ended"]
        assert (await client.get("/")).json() == {"n": 1, "streamed": 1}
        get_manager().sync.close()


def test_an_asynchronous_stream_under_wsgi():
    """Django collects it; it saves all the same."""
    client = Client()
    client.get("/count")
    with pytest.warns(Warning, match="must consume asynchronous iterators"):
        assert b"".join(client.get("/a/stream")) == b"begunended"
    assert client.get("/").json() == {"n": 1, "streamed": 1}


def test_a_stream_that_fails_or_is_left_saves_nothing():
    """Neither what it had put in, nor anything after that."""
    client = Client()
    client.get("/count")
    with pytest.raises(ZeroDivisionError):
        client.get("/failing").getvalue()
    answer = client.get("/stream")
    chunks = iter(answer.streaming_content)
    next(chunks)
    answer.close()
    list(chunks)
    assert client.get("/").json() == {"n": 1}


async def test_an_asynchronous_stream_that_is_left():
    """It saves nothing."""
    client = AsyncClient()
    await client.get("/a/count")
    answer = await client.get("/a/stream")
    chunks = aiter(answer)
    assert await anext(chunks) == b"begun"
    await chunks.aclose()
    assert (await client.get("/a/")).json() == {"n": 1}


def test_a_log_in_during_a_stream(caplog):
    """A visitor's new session is too late, and said once; who has a session gets the error."""
    caplog.set_level(logging.WARNING)
    visitor = Client()
    for _ in range(2):
        assert visitor.get("/stream").getvalue() == b"begunended"
    assert [record.message for record in caplog.records if "'stream'" in record.message]
    assert "sessionid" not in visitor.cookies

    def logs_in(request):
        def chunks():
            yield b"begun"
            request.session["_auth_user_id"] = "7"

        request.session.get("n")
        return StreamingHttpResponse(chunks())

    client = Client()
    client.get("/count")
    with override_settings(ROOT_URLCONF=(*urlpatterns, path("logs-in", logs_in))), pytest.raises(ResponseStarted):
        client.get("/logs-in").getvalue()


def test_a_file_is_sent_as_it_is():
    """The server may send it by itself; what the view put in is saved before."""
    answer = SessionMiddleware(file)(RequestFactory().get("/file"))
    assert answer.file_to_stream is not None
    client = Client(HTTP_COOKIE=f"sessionid={answer.cookies['sessionid'].value}")
    assert client.get("/").json() == {"sent": True}
    answer.close()
