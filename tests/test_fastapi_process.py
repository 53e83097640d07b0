"""The example on FastAPI as its visitors meet it: a real uvicorn process, spoken to over HTTP and WebSockets."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from roomkey import SessionManager
from roomkey.testing import client_session
from tests.loop_clock import HANGS
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent
SECRET = "k" * 43
ADA = {"name": "ada", "password": "lovelace"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('fastapi') / 'sessions.sqlite3'}"


@pytest.fixture(scope="module")
def address(store):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port)],
        cwd=ROOT / "examples",
        env={
            **os.environ,
            "SECRET_KEY": SECRET,
            "STORE": store,
            "PYTHONPATH": str(ROOT / "src"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    try:
        while "running on" not in said:
            line = process.stdout.readline()
            said += line
            assert line, f"uvicorn did not start:\n{said}"
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=HANGS)
    assert "Finished server process" in said, said
    assert "Traceback" not in said, said


@pytest.fixture
def client(address):
    with httpx.Client(base_url=f"http://{address}", timeout=HANGS) as client:
        yield client


def test_a_visitor_who_looks_around_gets_no_cookie(client):
    """To read the session, or to be refused, sets no cookie."""
    for path, status in (("/", 200), ("/me", 401), ("/docs", 200)):
        answer = client.get(path)
        assert answer.status_code == status
        assert "set-cookie" not in answer.headers


def test_the_story_of_a_user(client, address):
    """A cart begins a session, a log-in changes its ID, a log-out is final, and a copied cookie opens nothing."""
    assert client.post("/cart/tea").json() == ["tea"]
    before = client.cookies["session"]
    assert client.post("/login", json=ADA).json() == {"user": "ada"}
    after = client.cookies["session"]
    assert after != before
    assert client.get("/").json()["cart"] == ["tea"]
    assert client.get("/me").json() == {"user": "ada"}

    def copy(card):
        return httpx.get(f"http://{address}/me", headers={"cookie": f"session={card}"}, timeout=HANGS)

    assert copy(before).status_code == 401
    assert copy(after).status_code == 200
    client.post("/logout")
    assert "session" not in client.cookies
    assert copy(after).status_code == 401
    assert copy(after).headers["www-authenticate"] == 'Cookie cookie-name="session"'


def test_a_dependency_with_yield_counts(client):
    """What a dependency with `yield` changes is there on the next request."""
    client.post("/cart/tea")
    assert [client.get("/").json()["pages"] for _ in range(3)] == [1, 2, 3]


def test_a_dangerous_step(client):
    """Right after the log-in it is allowed, and it ends the session here."""
    assert client.delete("/account").status_code == 401
    client.post("/login", json=ADA)
    before = client.cookies["session"]
    assert client.post("/login/again", json={"password": "wrong"}).status_code == 400
    assert client.post("/login/again", json={"password": "lovelace"}).status_code == 200
    assert client.cookies["session"] != before
    assert client.delete("/account").status_code == 200
    assert client.get("/me").status_code == 401


def test_a_websocket(client, address):
    """A user's WebSocket is accepted and shares the session, and a visitor's handshake is refused."""
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{address}/chat", open_timeout=HANGS)
    assert refused.value.response.status_code == 403
    client.post("/login", json=ADA)
    cookie = {"Cookie": f"session={client.cookies['session']}"}
    with connect(f"ws://{address}/chat", additional_headers=cookie, open_timeout=HANGS) as socket:
        socket.send("hello")
        assert socket.recv(timeout=HANGS) == "ada: hello"


def test_the_document_has_the_lock(client):
    """The OpenAPI document that is served names the cookie, and the operations that need it."""
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["SessionCookie"]["name"] == "session"
    assert document["paths"]["/me"]["get"]["security"] == [{"SessionCookie": []}]
    assert "security" not in document["paths"]["/"]["get"]


def test_a_client_that_a_test_logs_in(client, store):
    """A manager with the server's options logs a client in without a request, and sees what the server saved."""
    manager = SessionManager(secret_key=SECRET, store=store)
    with client_session(client, manager) as session:
        session["user_id"] = "ada"
    assert client.get("/me").json() == {"user": "ada"}
    client.post("/cart/tea")
    with client_session(client, manager) as session:
        assert session == {"user_id": "ada", "cart": ["tea"]}
    manager.sync.close()


def test_the_page_shows_this_app():
    """The first block of the page about FastAPI is the example, but for the empty line between the imports."""
    page = (ROOT / "docs" / "howto-fastapi.md").read_text()
    shown = page.partition("```python\n")[2].partition("```")[0]
    app = (ROOT / "examples" / "fastapi_app.py").read_text()
    assert shown == app.replace("\n\nfrom roomkey", "\nfrom roomkey")
