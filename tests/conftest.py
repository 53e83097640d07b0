"""What every test shares."""

import asyncio
import gc
import inspect
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

from roomkey.stores.sqlite import worker
from tests.loop_clock import HANGS, WaitingLoop
from tests.servers import left_out
from tests.servers.mariadb import mariadb_binary
from tests.servers.pgbouncer import pgbouncer_binary
from tests.servers.postgres import postgres_programs
from tests.servers.redis import redis_binary

# No test fails for the machine's load: neither by a deadline, nor for slow generation.
settings.register_profile("roomkey", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("roomkey")


def pytest_report_header() -> list[str]:
    """Say which servers the tests start, and which they go without."""
    lines = []
    servers = {
        "redis": redis_binary,
        "postgres": postgres_programs,
        "mariadb": mariadb_binary,
        "pgbouncer": pgbouncer_binary,
    }
    for name, find in servers.items():
        if name not in left_out():
            try:
                lines.append(f"{name}: {find()}")
            except RuntimeError as error:
                lines.append(f"{name}: MISSING, so its tests will fail: {error}")
    if left_out():
        lines.append(f"WITHOUT {', '.join(left_out())}: the tests that need them are skipped (apt-get install them)")
    return lines


@pytest.fixture(autouse=True, scope="session")
def _no_logging_of_the_apps():
    """Keep the log configuration of Ravyn, Lilya and Litestar away: it would be that of all tests that follow.

    Their handlers write every request of every test client, to a stream that is pytest's and closed in the end.
    """
    with mock.patch("logging.config.dictConfig"):
        yield


@pytest.fixture(autouse=True, scope="session")
def _waiting_loops():
    """Let the loops of `asyncio.run`, of test clients and of `manager.sync` be such as `async def` tests run in."""
    with (
        mock.patch.object(asyncio, "new_event_loop", WaitingLoop),
        mock.patch.object(asyncio.events, "new_event_loop", WaitingLoop),
    ):
        yield


@pytest.fixture(autouse=True, scope="session")
def _patient_sqlite():
    """Let operations wait long for a lock of SQLite's: on a busy machine whoever holds it takes its time."""
    with mock.patch.object(worker, "_PATIENCE", HANGS):
        yield


@pytest.fixture
def settled(monkeypatch):
    """Let the first answer after the beginning of an outage end it."""
    monkeypatch.setattr("roomkey.stores.guard.SETTLING", 0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run each `async def test_...` in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with asyncio.Runner(loop_factory=WaitingLoop) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture
def patient(monkeypatch):
    """Let time limits last much longer than they say: servers that tests start are slow on a busy machine."""
    monkeypatch.setattr(WaitingLoop, "patience", 60.0)


@pytest.fixture
def tidy():
    """Collect what the test has left: a socket that was not closed is a warning then, and an error of this test."""
    yield
    gc.collect()
