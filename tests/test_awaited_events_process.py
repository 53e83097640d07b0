"""An `async def` of `on_event` in a real server process: requests do not wait, and its shutdown does."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.loop_clock import HANGS
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent
APP = '''
import asyncio
import os

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from roomkey import SessionManager, SessionMiddleware, session_of

shutting_down = asyncio.Event()


async def hear(event):
    await shutting_down.wait()  # no event is told before the server ends
    await asyncio.sleep(0.1)  # slow: a server that does not wait has ended by then
    with open("told", "a") as file:
        print(type(event).__name__, event.user, file=file)


async def log_in(request):
    session_of(request)["user_id"] = request.path_params["user"]
    return PlainTextResponse("in")


class Noticing:
    """Hears of the end of the lifespan before the session manager does."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def heard():
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                shutting_down.set()
            return message

        await self.app(scope, heard, send)


manager = SessionManager(
    secret_key="k" * 43, store=f"sqlite:///{os.path.abspath('sessions.sqlite3')}", on_event=hear
)
app = Noticing(SessionMiddleware(Starlette(routes=[Route("/login/{user}", log_in, methods=["POST"])]), manager))
'''


def test_a_shutdown_waits_until_all_events_are_told(tmp_path):
    """Three users log in while the subscriber waits. All of them are told when the server has ended."""
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
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
        for user in ("ada", "bob", "eve"):
            assert httpx.post(f"http://127.0.0.1:{port}/login/{user}", timeout=HANGS).text == "in"
        assert not (tmp_path / "told").exists()
    finally:
        process.terminate()
        said += process.communicate(timeout=HANGS)[0]
    assert "Finished server process" in said and "Traceback" not in said, said
    assert (tmp_path / "told").read_text().splitlines() == ["Created ada", "Created bob", "Created eve"]
