"""The card in a header over real servers: what they make of several headers, of huge ones and of junk."""

import http.client
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.loop_clock import HANGS
from tests.servers.parts import free_port

pytest.importorskip("gunicorn")

ROOT = Path(__file__).parent.parent
LOG_IN = {
    "uvicorn": ("POST", "/api/login", '{"name": "ada", "password": "lovelace"}'),
    "gunicorn": ("GET", "/login/ada", ""),
}
LOOK = {"uvicorn": "/api/me", "gunicorn": "/"}
ANONYMOUS = {"uvicorn": (401, b"Not logged in."), "gunicorn": (200, b"{}")}


def command_of(kind, port, folder):
    store = f"sqlite:///{folder}/sessions.sqlite3"
    if kind != "gunicorn":
        how = ["--http", kind.partition(" ")[2], "--app-dir", "examples"]
        return ["uvicorn", "api_app:app", "--port", str(port), *how], store
    app = f"tests.flask_site:create_app(ROOMKEY_STORE={store!r}, ROOMKEY_CARD_HEADER='Authorization')"
    return ["gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "--timeout", str(HANGS), app], store


@pytest.fixture(scope="module", params=["uvicorn h11", "uvicorn httptools", "gunicorn"])
def server(request, tmp_path_factory):
    """Return the kind of a server that runs, and a function that sends it one request."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command, store = command_of(request.param, port, folder)
    environment = {
        **os.environ,
        "HOME": str(folder),  # where gunicorn puts a socket
        "SECRET_KEY": "k" * 43,
        "STORE": store,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:

            def ask(method, path, *headers, body=""):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANGS)
                connection.putrequest(method, path)
                for name, value in (*headers, ("Content-Type", "application/json"), ("Content-Length", len(body))):
                    connection.putheader(name, value)
                connection.endheaders(body.encode())
                response = connection.getresponse()
                answer = response.status, response.read(), response.getheaders()
                connection.close()
                return answer

            deadline = time.monotonic() + HANGS
            while True:
                try:
                    ask("GET", "/")
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.05)
            yield request.param.partition(" ")[0], ask
        finally:
            process.terminate()
            process.wait(HANGS)
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture
def card(server):
    kind, ask = server
    method, path, body = LOG_IN[kind]
    status, _, headers = ask(method, path, body=body)
    (card,) = [value for name, value in headers if name.lower() == "session-card"]
    assert status == 200 and len(card) == 80 and not [name for name, _ in headers if name.lower() == "set-cookie"]
    return card


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_card_opens_its_session(server, card, scheme):
    """Whatever the case of the scheme and of the header's name."""
    kind, ask = server
    for name in ("Authorization", "authorization", "AUTHORIZATION"):
        status, body, _ = ask("GET", LOOK[kind], (name, f"{scheme} {card}"))
        assert status == 200 and b"ada" in body


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer {0}", "Bearer {0}"],
        ["Bearer {0}", "Bearer x"],
        ["Basic YTpi", "Bearer {0}"],
        ["Bearer {0}, Bearer {0}"],
        ["Bearer {0},{0}"],
        ["Bearer"],
        [""],
        ["Basic YTpi"],
        ["{0}"],
        ["Bearer \xe9\xff{0}"],
        ["Bearer " + "x" * 5000],
    ],
)
def test_what_is_not_one_card_is_anonymous(server, card, values):
    """Nobody is logged in, and nothing raises."""
    kind, ask = server
    status, body, _ = ask("GET", LOOK[kind], *(("Authorization", value.format(card)) for value in values))
    expected, text = ANONYMOUS[kind]
    assert status == expected and text in body


def test_a_header_that_the_server_does_not_take(server, card):
    """A huge one may be refused by the server. It is no error of the app's, and the next request works."""
    kind, ask = server
    status, _, _ = ask("GET", LOOK[kind], ("Authorization", "Bearer " + "x" * 60_000))
    assert 400 <= status < 500 or status == ANONYMOUS[kind][0]
    assert ask("GET", LOOK[kind], ("Authorization", f"Bearer {card}"))[0] == 200


def test_a_log_out_sends_an_empty_header(server, card):
    """It arrives, empty as it is, and the card is dead."""
    kind, ask = server
    method, path = ("POST", "/api/logout") if kind == "uvicorn" else ("GET", "/logout")
    _, _, headers = ask(method, path, ("Authorization", f"Bearer {card}"))
    assert [value for name, value in headers if name.lower() == "session-card"] == [""]
    status, body, _ = ask("GET", LOOK[kind], ("Authorization", f"Bearer {card}"))
    assert status == ANONYMOUS[kind][0] and b"ada" not in body
