"""The pytest plugin, in a pytest of its own: with the entry point of the project, and with `-p`."""

import os
import subprocess
import sys
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE, run_script

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
ENTRY_POINTS = PROJECT["entry-points"]["pytest11"]


def run_pytest(folder, code, *arguments, path=()):
    """Run pytest over one test file, and return what it said. Without a path it knows no other plugin."""
    (folder / "test_it.py").write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *map(str, path)])}
    environment.pop("PYTEST_ADDOPTS", None)
    if not path:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def installed(tmp_path):
    """A folder that says what an installed Roomkey says of its plugin."""
    folder = tmp_path / "site" / "roomkey-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: roomkey\nVersion: 0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in ENTRY_POINTS.items())
    (folder / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    return folder.parent


EXPIRES = """
    import pytest
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    from roomkey import SessionMiddleware, session_of
    from roomkey.testing import client_session


    async def me(request):
        return JSONResponse(session_of(request).get("member"))


    def create_app(manager):
        return Starlette(routes=[Route("/", me)], middleware=[Middleware(SessionMiddleware, config=manager)])


    @pytest.fixture
    def roomkey_options():
        return {"max_age": 60, "user_key": "member"}


    @pytest.mark.parametrize("again", [1, 2])
    def test_it(roomkey_manager, roomkey_clock, again):
        with TestClient(create_app(roomkey_manager)) as client:
            assert len(roomkey_manager.sync.sessions.of(7)) == 0
            with client_session(client, roomkey_manager) as session:
                session["member"] = 7
            assert client.get("/").json() == 7
            roomkey_clock.advance(61)
            assert client.get("/").json() is None
"""


def test_an_expiry_without_sleeping(tmp_path):
    """Each test has a manager and a clock of its own, with the options of the test's file."""
    pytest.importorskip("starlette")
    code, said = run_pytest(tmp_path, EXPIRES, "-p", "roomkey.pytest_plugin")
    assert code == 0 and "2 passed" in said, said


@pytest.mark.parametrize("arguments", [[], ["-p", "roomkey.pytest_plugin"]])
def test_it_is_found_where_roomkey_is_installed(tmp_path, installed, arguments):
    """By the entry point that pyproject.toml names, also where a command names it once more."""
    pytest.importorskip("starlette")
    code, said = run_pytest(tmp_path, EXPIRES, *arguments, path=[installed])
    assert code == 0 and "2 passed" in said, said


def test_nothing_is_forced_on_anybody(tmp_path):
    """A test that asks for nothing gets nothing, and no framework, driver or event loop is imported for it."""
    code, said = run_pytest(
        tmp_path,
        """
        import sys

        def test_it(request):
            assert request.fixturenames == ["request"]
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "roomkey.pytest_plugin" in sys.modules and "roomkey.testing" not in sys.modules
            frameworks = {"aiohttp", "django", "flask", "httpx", "litestar", "quart", "ravyn", "starlette"}
            assert not loaded & (frameworks | {"asyncpg", "cryptography", "redis", "sqlalchemy"})
        """,
        "-p",
        "roomkey.pytest_plugin",
    )
    assert code == 0, said


def test_the_entry_point_names_a_module():
    """It is there, and every fixture of it is public and described."""
    (module,) = map(import_module, ENTRY_POINTS.values())
    assert module.__name__ == "roomkey.pytest_plugin"
    assert all(getattr(module, name).__doc__ for name in module.__all__)


def test_what_its_import_costs():
    """It imports pytest, and what `import roomkey` imports."""
    loaded = run_script("""
        import sys
        import pytest, roomkey
        before = set(sys.modules)
        import roomkey.pytest_plugin
        print(*(set(sys.modules) - before))
    """)
    assert loaded.split() == ["roomkey.pytest_plugin"]
