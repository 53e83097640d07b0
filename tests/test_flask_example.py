"""examples/flask_app.py: the to-do list, in this process and as its users start it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from examples.flask_app import create_app
from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent


@pytest.fixture
def app(monkeypatch):
    monkeypatch.delenv("FLASK_SECRET_KEY", raising=False)
    return create_app({"SECRET_KEY": "k" * 32})


def test_a_list_survives_the_log_in(app):
    """A visitor's list comes along, the message is shown once, and the cookie of before is dead."""
    client = app.test_client()
    assert "Set-Cookie" not in client.get("/").headers
    client.post("/add", data={"item": "milk"})
    before = client.get_cookie("session").value
    answer = client.post("/login", data={"name": "Ann", "stay": "on"})
    assert "Max-Age=2678400" in answer.headers["Set-Cookie"]
    page = client.get("/").text
    assert "Welcome, Ann." in page and "<li>milk</li>" in page and "on 1 device(s)" in page
    assert "Welcome" not in client.get("/").text
    stale = app.test_client()
    stale.set_cookie("session", before)
    assert "milk" not in stale.get("/").text


def test_log_outs(app):
    """One ends one session, the other all of the user's."""
    first, second, third = (app.test_client() for _ in range(3))
    for client in (first, second, third):
        client.post("/login", data={"name": "Ann"})
    first.post("/logout")
    assert "Nobody" in first.get("/").text and "on 2 device(s)" in second.get("/").text
    second.post("/logout-everywhere")
    assert "Nobody" in third.get("/").text
    assert first.post("/login", data={"name": " "}).status_code == 400


def test_the_command_that_starts_it(tmp_path):
    """As its first lines say, with settings from the environment."""
    command = re.search(r"^ +flask (.+)$", (ROOT / "examples" / "flask_app.py").read_text(), re.M)[1]
    port = free_port()
    environment = {
        **os.environ,
        "FLASK_SECRET_KEY": "k" * 32,
        "FLASK_ROOMKEY_STORE": f"sqlite:///{tmp_path}/sessions.db",
        "FLASK_ROOMKEY_STORE_TIMEOUT": str(HANGS),
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", *command.split(), "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "Running on" in line:
                break
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANGS, trust_env=False) as client:
            client.post("/add", data={"item": "milk"})
            assert "<li>milk</li>" in client.get("/").text, said
    finally:
        process.terminate()
        process.communicate(timeout=HANGS)
    assert (tmp_path / "sessions.db").exists()
