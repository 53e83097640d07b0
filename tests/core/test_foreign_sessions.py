"""A session belongs to the manager that loaded it."""

import pytest

from roomkey import ConfigurationError, SessionManager
from roomkey.stores.memory import MemoryStore

SECRET = "a secret that is long enough for every test here"


@pytest.mark.parametrize("looks", [False, True])
async def test_another_manager_refuses_it(looks):
    """It has another cookie and another store. That holds too where the handler has asked for the session's handle."""
    one, two = [SessionManager(secret_key=SECRET, store=MemoryStore(), session_cookie=name) for name in ("a", "b")]
    session = await one.load()
    session["x"] = 1
    if looks:
        assert session.handle == ""
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="another SessionManager"):
            await two.commit(session)
    assert "set-cookie" in dict(await one.commit(session))
