"""A pytest plugin: a session manager in memory, and its clock. pytest finds it where Roomkey is installed.

    def test_the_session_expires(roomkey_manager, roomkey_clock):
        client = TestClient(create_app(roomkey_manager))
        with client_session(client, roomkey_manager) as session:
            session["user_id"] = 7
        roomkey_clock.advance(4 * 3600)
        assert client.get("/me").status_code == 401

Nothing here happens to a test that asks for none of it. What the fixtures need is imported when a test asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from roomkey.manager import SessionManager
    from roomkey.testing import Clock

__all__ = ["roomkey_clock", "roomkey_manager", "roomkey_options"]

_KEY = "a key for tests, and for nothing else"


@pytest.fixture
def roomkey_clock() -> Clock:
    """The clock of `roomkey_manager`. It starts at the real time, and stands still until `advance(seconds)`."""
    from roomkey.testing import Clock

    return Clock()


@pytest.fixture
def roomkey_options() -> dict[str, Any]:
    """The options of `roomkey_manager` beside its key, store and clock. Define a fixture of this name to give some."""
    return {}


@pytest.fixture
def roomkey_manager(roomkey_clock: Clock, roomkey_options: dict[str, Any]) -> Iterator[SessionManager]:
    """A session manager for one test, with an empty store in memory. Give it to the app in the place of its own."""
    from roomkey.manager import SessionManager

    options: dict[str, Any] = {"secret_key": _KEY, "store": "memory://", "clock": roomkey_clock, **roomkey_options}
    manager = SessionManager(**options)
    yield manager
    manager.sync.close()
