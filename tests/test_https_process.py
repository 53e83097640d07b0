"""`https_only="auto"` on a real server: over TLS, and behind proxies that the server believes or does not."""

import contextlib
import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.loop_clock import HANGS
from tests.servers.parts import free_port, make_certificate

ROOT = Path(__file__).parent.parent
FORWARDED = {"X-Forwarded-Proto": "https"}


@contextlib.contextmanager
def serving(store, *options):
    """Run the example on FastAPI in uvicorn, and yield its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port), *options],
        cwd=ROOT / "examples",
        env={**os.environ, "SECRET_KEY": "k" * 43, "STORE": store, "PYTHONPATH": str(ROOT / "src")},
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
        process.communicate(timeout=HANGS)


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path / 'sessions.sqlite3'}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return the files of a key and of a certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make_certificate(certificate, key)
    return key, certificate


def log_in(client, path="/login", **headers):
    """Log in; return the `Set-Cookie`."""
    answer = client.post(path, json={"name": "ada", "password": "lovelace"}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["set-cookie"]


def test_over_tls(store, certificate):
    """The cookie is `Secure`, of a log-in and of a WebSocket's handshake, and the session goes on."""
    key, authority = certificate
    trust = ssl.create_default_context(cafile=authority)
    files = ["--ssl-keyfile", str(key), "--ssl-certfile", str(authority)]
    with serving(store, *files) as address, httpx.Client(base_url=f"https://{address}", verify=trust) as client:
        assert "; Secure" in log_in(client)
        assert client.get("/me").json() == {"user": "ada"}
        with connect(
            f"wss://{address}/chat",
            ssl=trust,
            additional_headers={"Cookie": f"session={client.cookies['session']}"},
            proxy=None,
        ):
            pass


@pytest.mark.parametrize(("option", "expected"), [("--proxy-headers", True), ("--no-proxy-headers", False)])
def test_behind_a_proxy(store, option, expected):
    """The server decides whether a proxy is believed. A card that was given as `Secure` stays so in any case."""
    with serving(store, option) as address:
        with httpx.Client(base_url=f"http://{address}") as client:
            assert ("; Secure" in log_in(client, **FORWARDED)) is expected
        with httpx.Client(base_url=f"http://{address}") as client:
            assert "; Secure" not in log_in(client)
        if expected:
            with httpx.Client(base_url=f"http://{address}") as client:
                card = log_in(client, **FORWARDED).split(";")[0]
            with httpx.Client(base_url=f"http://{address}") as client:
                assert "; Secure" in log_in(client, "/login/again", Cookie=card)
