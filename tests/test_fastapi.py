"""A FastAPI app end to end: dependencies, validation errors, HTTPException, background tasks, WebSockets."""

from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Body, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from roomkey import ConfigurationError, Session, SessionDataError, SessionMiddleware
from roomkey.stores.memory import MemoryStore

SECRET = "a secret that is long enough for every test here"


def get_session(request: Request) -> Session:
    return request.session


AnySession = Annotated[Session, Depends(get_session)]


def get_user(session: AnySession) -> str:
    if "user_id" not in session:
        raise HTTPException(401, "log in first")
    return session["user_id"]


User = Annotated[str, Depends(get_user)]


def make_app(store):
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store=store)

    @app.post("/login")
    async def login(session: AnySession, user: Annotated[str, Body(embed=True)]):
        session["user_id"] = user
        return {"user": user}

    @app.get("/me")
    async def me(user: User, session: AnySession):
        return {"user": user, "data": session.copy()}

    @app.post("/cart")
    def add(session: AnySession, user: User, item: Annotated[int, Body(embed=True)]):  # in FastAPI's thread pool
        session.setdefault("cart", []).append(item)
        return session["cart"]

    @app.post("/logout", status_code=204)
    async def logout(session: AnySession) -> None:
        session.invalidate()

    @app.post("/refuse")
    async def refuse(session: AnySession):
        session["attempts"] = session.get("attempts", 0) + 1
        raise HTTPException(403, "no", headers={"X-Why": "because"})

    @app.post("/crash")
    async def crash(session: AnySession):
        session["crashed"] = True
        raise LookupError("a bug")

    @app.post("/bad")
    async def bad(session: AnySession):
        session.update(good=1, bad=object())
        return "fine"

    @app.post("/mail")
    async def mail(request: Request, tasks: BackgroundTasks):
        request.session["mailed"] = False

        def send():
            request.session["mailed"] = True

        tasks.add_task(send)
        return "on its way"

    @app.get("/stream")
    async def stream(session: AnySession):
        async def body():
            yield "a"
            session["streamed"] = True
            yield "b"

        return StreamingResponse(body())

    @app.websocket("/socket")
    async def socket(websocket: WebSocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            websocket.session.setdefault("said", []).append(text)
            await websocket.session.save()
            await websocket.send_json(websocket.session.copy())

    @app.get("/health")
    async def health():
        return "ok"

    return app


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def client(store):
    with TestClient(make_app(store), raise_server_exceptions=False) as running:
        yield running


def log_in(client):
    answer = client.post("/login", json={"user": "ada"})
    assert answer.status_code == 200
    return answer


def test_log_in_use_and_log_out(client, store):
    """A user logs in, fills a cart over several requests, logs out, and even a copy of the cookie is then nobody's."""
    assert client.get("/me").status_code == 401
    log_in(client)
    assert client.post("/cart", json={"item": 1}).json() == [1]
    assert client.post("/cart", json={"item": 2}).json() == [1, 2]
    assert client.get("/me").json() == {"user": "ada", "data": {"user_id": "ada", "cart": [1, 2]}}
    card = client.cookies["session"]
    assert client.post("/logout").status_code == 204
    assert "session" not in client.cookies
    assert client.get("/me", headers={"cookie": f"session={card}"}).status_code == 401
    assert not store._records


def test_the_headers_of_a_log_in(client):
    """The response that logs in sets one HttpOnly cookie, varies by cookie and is kept out of caches."""
    answer = log_in(client)
    assert len(answer.headers.get_list("set-cookie")) == 1
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert answer.headers["vary"] == "Cookie"
    assert answer.headers["cache-control"] == "no-store"


def test_a_path_without_a_session_has_no_trace_of_one(client):
    """A path that asks for no session sends neither a cookie nor Vary, with or without a cookie sent."""
    for _ in range(2):
        answer = client.get("/health")
        assert "set-cookie" not in answer.headers
        assert "vary" not in answer.headers
        log_in(client)


def test_an_http_exception_saves(client):
    """A response made from HTTPException saves the session and keeps the exception's own headers."""
    log_in(client)
    for number in (1, 2):
        answer = client.post("/refuse")
        assert (answer.status_code, answer.headers["x-why"]) == (403, "because")
        assert client.get("/me").json()["data"]["attempts"] == number


def test_an_http_exception_starts_a_session(client):
    """HTTPException to a visitor without a session saves a new one and hands out its cookie."""
    assert "session=" in client.post("/refuse").headers["set-cookie"]


def test_an_unhandled_error_saves_nothing(client):
    """A handler that raises gets FastAPI's 500 page, and the session stays as it was."""
    log_in(client)
    answer = client.post("/crash")
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers
    assert "crashed" not in client.get("/me").json()["data"]


def test_unstorable_data_is_the_error_page(client, store):
    """A value that cannot be stored is FastAPI's 500 page without a cookie, and nothing is saved."""
    answer = client.post("/bad")
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers
    assert not store._records
    log_in(client)
    assert client.post("/bad").status_code == 500
    assert client.get("/me").json()["data"] == {"user_id": "ada"}


def test_unstorable_data_is_raised_to_the_developer(store):
    """The error behind that page names the key and the type."""
    with TestClient(make_app(store)) as client, pytest.raises(SessionDataError, match=r"bad.*object"):
        client.post("/bad")


def test_a_validation_error_leaves_the_session(client):
    """A request refused by FastAPI's validation changes nothing in the session."""
    log_in(client)
    assert client.post("/cart", json={"item": "no number"}).status_code == 422
    assert client.get("/me").json()["data"] == {"user_id": "ada"}


def test_a_background_task_saves(client):
    """What a background task puts into the session after the response is there on the next request."""
    log_in(client)
    assert client.post("/mail").json() == "on its way"
    assert client.get("/me").json()["data"]["mailed"] is True


def test_a_stream_saves(client):
    """What a streaming response puts into the session between its chunks is there on the next request."""
    log_in(client)
    assert client.get("/stream").text == "ab"
    assert client.get("/me").json()["data"]["streamed"] is True


def test_a_websocket_shares_the_session(client):
    """A WebSocket reads the session of the log-in, and what it saves is seen by HTTP requests while it is open."""
    log_in(client)
    with client.websocket_connect("/socket") as socket:
        socket.send_text("hi")
        assert socket.receive_json() == {"user_id": "ada", "said": ["hi"]}
        assert client.get("/me").json()["data"]["said"] == ["hi"]


def test_logging_in_as_another_user_changes_the_id(client):
    """A second log-in as somebody else hands out another card, and the first one is dead."""
    log_in(client)
    before = client.cookies["session"]
    client.post("/login", json={"user": "grace"})
    assert client.cookies["session"] != before
    assert client.get("/me").json()["user"] == "grace"
    client.cookies.clear()
    assert client.get("/me", headers={"cookie": f"session={before}"}).status_code == 401


def test_a_wrong_configuration_ends_the_start(tmp_path):
    """A test client does not wait for ever where the store can never open, but raises what is wrong."""
    with pytest.raises(ConfigurationError, match="directory"), TestClient(make_app(f"sqlite:///{tmp_path}")):
        pass
