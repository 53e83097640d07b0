"""Servers for the tests of the session manager."""

import pytest

from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def redis_server():
    with RedisServer() as server:
        yield server
