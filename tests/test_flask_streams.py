"""Flask: responses that stream, and files."""

import flask
import pytest
from werkzeug.test import create_environ
from werkzeug.wsgi import FileWrapper

from roomkey.flask import session
from tests.flask_site import cookie, make_app


def stream_app():
    app, _ = make_app()
    closed = []

    @app.get("/stream")
    def stream():
        @flask.stream_with_context
        def chunks():
            try:
                yield "a"
                session["streamed"] = True
                if "fail" in flask.request.args:
                    raise ZeroDivisionError
                yield "b"
            finally:
                closed.append(True)

        return flask.Response(chunks())

    return app, closed


def test_a_stream_saves_at_its_end():
    """What it puts in after the first chunk."""
    app, closed = stream_app()
    client = app.test_client()
    client.get("/count")
    assert client.get("/stream").text == "ab" and closed == [True]
    assert client.get("/").json == {"n": 1, "streamed": True}


def test_a_stream_that_fails_saves_nothing():
    """Whether it raises, or the client goes away in the middle of it."""
    app, closed = stream_app()
    client = app.test_client()
    client.get("/count")
    with pytest.raises(ZeroDivisionError):
        client.get("/stream?fail=1", buffered=True)
    answer = client.get("/stream")
    chunks = answer.iter_encoded()
    assert next(chunks) == b"a"
    answer.close()
    chunks.close()
    assert client.head("/stream").data == b""
    assert closed == [True, True] and client.get("/").json == {"n": 1}


def test_a_stream_that_begins_a_session(caplog):
    """It is too late for that: the log says so once, and the visitor gets the whole stream."""
    app, _ = stream_app()
    for _ in range(2):
        client = app.test_client()
        assert client.get("/stream").text == "ab" and cookie(client) is None
    assert [record.message.partition(" put")[0] for record in caplog.records] == ["the endpoint stream"]


def test_a_file_is_sent_as_it_is():
    """Nothing stands between it and the server."""
    app, _ = make_app()

    @app.get("/file")
    def file():
        session["file"] = True
        return flask.send_file(__file__)

    class Sending(FileWrapper):  # as a server that sends files itself has one
        pass

    environ = create_environ("/file") | {"wsgi.file_wrapper": Sending}
    sent = app.wsgi_app(environ, lambda *_: None)
    assert type(sent) is Sending
    sent.close()
    client = app.test_client()
    assert client.get("/file", buffered=True).data.startswith(b'"""Flask')
    assert client.get("/").json == {"file": True}
