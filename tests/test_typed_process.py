"""Typed sessions as browsers meet them: a real server of two processes, over HTTP."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    port = free_port()
    store = f"sqlite:///{tmp_path_factory.mktemp('typed') / 'sessions.sqlite3'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "tests.typed_app:app", "--port", str(port), "--workers", "2"],
        cwd=ROOT,
        env={**os.environ, "SECRET_KEY": "k" * 43, "STORE": store, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, started = "", 0
    try:
        while started < 2:
            line = process.stdout.readline()
            said, started = said + line, started + ("startup complete" in line)
            assert line, f"uvicorn did not start:\n{said}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=HANGS)
    assert "Traceback" not in said, said


def test_concurrent_requests_that_change_different_fields(address):
    """Each of 20 requests at once keeps what it did to its field, in two processes; additions add up."""

    async def story():
        async with httpx.AsyncClient(base_url=address, timeout=HANGS) as client:
            assert "set-cookie" not in (await client.get("/visit")).headers
            await client.post("/page")
            paths = [*(["/page"] * 17), "/theme", "/cart", "/address"]
            answers = await asyncio.gather(*(client.post(path) for path in paths))
            assert [answer.status_code for answer in answers] == [200] * 20
            expected = {"pages": 18, "theme": "dark", "cart": ["tea"], "address": {"city": "Zug"}}
            assert (await client.get("/visit")).json() == (await client.get("/session")).json() == expected

    asyncio.run(story())


def test_a_session_of_an_older_version(address):
    """What no longer fits is served as the defaults, without a 500, and stays until it is overwritten."""
    with httpx.Client(base_url=address, timeout=HANGS) as client:
        client.post("/old/5")
        stored = client.get("/session").json()
        assert client.get("/dict").json() == {"pages": 0, "theme": "light", "cart": [], "address": {"city": "Bern"}}
        assert client.get("/session").json() == stored == {"address": 5, "cart": "tea", "user_id": 7, "gone": True}
        client.post("/cart")
        assert client.get("/session").json() == {**stored, "cart": ["tea"]}
