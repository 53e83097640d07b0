"""The example of an API beside a site, as its clients meet it: a real uvicorn process, HTTP and WebSockets."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.loop_clock import HANGS
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent
ADA = {"name": "ada", "password": "lovelace"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "api_app:app", "--port", str(port)],
        cwd=ROOT / "examples",
        env={
            **os.environ,
            "SECRET_KEY": "k" * 43,
            "STORE": f"sqlite:///{tmp_path_factory.mktemp('api') / 'sessions.sqlite3'}",
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


def bearer(card):
    return {"Authorization": f"Bearer {card}"}


def test_the_story_of_a_mobile_app(client):
    """A refusal says how to log in, a log-in gives a card, use gives none again, and a log-out takes it back."""
    refusal = client.get("/api/me")
    assert refusal.status_code == 401 and refusal.headers["www-authenticate"] == 'Bearer realm="session"'
    answer = client.post("/api/login", json=ADA)
    assert answer.headers["cache-control"] == "no-store" and answer.headers["vary"] == "Authorization"
    card = answer.headers["session-card"]
    assert "set-cookie" not in answer.headers and not client.cookies
    answer = client.post("/api/cart/tea", headers=bearer(card))
    assert answer.json() == ["tea"] and "session-card" not in answer.headers
    assert client.get("/api/me", headers=bearer(card)).json() == {"user": "ada"}
    answer = client.post("/api/logout", headers=bearer(card))
    assert answer.headers["session-card"] == ""
    assert client.get("/api/me", headers=bearer(card)).status_code == 401
    assert client.get("/api/me", headers={"Authorization": "Bearer"}).status_code == 401


def test_a_second_log_in_gives_another_card(client):
    """The client replaces its card by the new one. The card from before is dead where the user has changed."""
    first = client.post("/api/login", json=ADA).headers["session-card"]
    client.post("/api/logout", headers=bearer(first))
    second = client.post("/api/login", json=ADA, headers=bearer(first)).headers["session-card"]
    assert second != first
    assert client.get("/api/me", headers=bearer(first)).status_code == 401
    assert client.get("/api/me", headers=bearer(second)).status_code == 200


def test_a_websocket(client, address):
    """A client that is no browser sends the header with the handshake, and one without a card is refused."""
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{address}/api/updates", open_timeout=HANGS)
    assert refused.value.response.status_code == 403
    card = client.post("/api/login", json=ADA).headers["session-card"]
    with connect(f"ws://{address}/api/updates", additional_headers=bearer(card), open_timeout=HANGS) as socket:
        assert socket.recv(timeout=HANGS) == "hello ada"


def test_the_site_and_the_api_share_their_users_and_no_card(client):
    """Each refuses the other's card, and a user on the site sees the mobile app's session and ends it."""
    card = client.post("/api/login", json=ADA).headers["session-card"]
    client.post("/login", json=ADA)
    assert client.get("/").json() == {"user": "ada"}
    cookie = client.cookies["session"]
    assert client.get("/api/me").status_code == 401
    assert client.get("/api/me", headers=bearer(cookie)).status_code == 401
    fresh = httpx.get(f"{client.base_url}", headers={"cookie": f"session={card}", **bearer(card)}, timeout=HANGS)
    assert fresh.json() == {"user": None}
    assert len(client.get("/devices").json()) >= 2
    assert client.post("/devices/log-out").json() >= 1
    assert client.get("/api/me", headers=bearer(card)).status_code == 401
    assert client.get("/").json() == {"user": "ada"}


def test_another_sites_page(client):
    """A forged request to the site is refused, also with a header beside the cookie. The API goes by no cookie."""
    card = client.post("/api/login", json=ADA).headers["session-card"]
    client.post("/login", json=ADA)
    forged = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    for headers in (forged, forged | bearer(card)):
        assert client.post("/devices/log-out", headers=headers).status_code == 403
        assert client.post("/api/cart/tea", headers=headers).status_code == (200 if headers is not forged else 401)


def test_the_document_has_the_lock(client):
    """The API's OpenAPI document asks for a bearer token, and the site's for the cookie."""
    document = client.get("/api/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["paths"]["/me"]["get"]["security"] == [{"SessionCard": []}]
    assert client.get("/openapi.json").json()["paths"]["/devices"]["get"]["security"] == [{"SessionCookie": []}]


def test_the_page_shows_this_app():
    """The how-to has the example whole, but for a blank line between the imports."""
    page = (ROOT / "docs" / "howto-api-clients.md").read_text()
    example = (ROOT / "examples" / "api_app.py").read_text()
    assert example.replace("\n\nfrom roomkey.csrf", "\nfrom roomkey.csrf") in page
