"""A Redis server for the readers that need one."""

import pytest

from roomkey.legacy import redis as redis_readers

HALF_AN_HOUR = 1800  # seconds: less than the old libraries keep an entry in these tests


@pytest.fixture(scope="module")
def redis_url():
    from tests.servers.redis import RedisServer

    with RedisServer() as server:
        yield server.url


@pytest.fixture
def leaves(monkeypatch):
    """Let servers keep what a reader has forgotten for half an hour: after its 10 seconds a slow test finds it gone.

    Returns whether an entry with so many seconds left is one that a reader has forgotten.
    """
    assert redis_readers._LEAVE == 10
    monkeypatch.setattr(redis_readers, "_LEAVE", HALF_AN_HOUR)
    return lambda seconds: 0 < seconds <= HALF_AN_HOUR
