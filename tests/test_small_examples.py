"""examples/starlette_app.py and examples/lilya_app.py, as their users start them: with uvicorn, in a process."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=["starlette_app", "lilya_app"])
def url(request, tmp_path_factory):
    port = free_port()
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/sessions.sqlite3"
    environment = {**os.environ, "SECRET_KEY": "k" * 43, "STORE": store, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", f"examples.{request.param}:app", "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "running on" in line:
            break
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.communicate(timeout=HANGS)


def test_a_cart_survives_the_log_in(url):
    """A visitor's cart comes along, the cookie of before is dead, and a log-out ends the session."""
    with httpx.Client(base_url=url) as client:
        assert client.get("/devices").status_code == 401
        assert "set-cookie" not in client.get("/cart").headers
        assert client.post("/cart/tea").json() == ["tea"]
        before = client.cookies["session"]
        assert client.post("/login/ann").status_code == 204
        after = client.cookies["session"]
        assert client.get("/cart").json() == ["tea"]
        (device,) = client.get("/devices").json()
        assert device["this one"] and len(device["handle"]) == 64
        assert client.post("/logout").status_code == 204
    for stale in (before, after):
        assert httpx.get(f"{url}/cart", headers={"cookie": f"session={stale}"}).json() == []


def test_carts_are_kept_apart(url):
    """Two visitors see two carts."""
    with httpx.Client(base_url=url) as one, httpx.Client(base_url=url) as other:
        one.post("/cart/tea")
        other.post("/cart/cup")
        assert one.get("/cart").json() == ["tea"] and other.get("/cart").json() == ["cup"]
