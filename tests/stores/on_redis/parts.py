"""Stores on a Redis server, plain clients to look behind them, and nodes of a cluster."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from roomkey.stores.redis import RedisStore
from tests.loop_clock import HANGS
from tests.servers import skip_if_left_out
from tests.servers.parts import free_port
from tests.servers.redis import RedisServer

PASSWORD = "p/w#?@:%secret"  # every character that a URL knows otherwise
SLOTS = 16384
_numbers = itertools.count(1)


def new_prefix() -> str:
    """A prefix that no other test uses."""
    return f"{{test{next(_numbers)}}}:"


@contextlib.asynccontextmanager
async def open_store(server: RedisServer, prefix: str | None = None, **options: Any) -> Any:
    store = RedisStore(server.url, prefix=prefix or new_prefix(), **options)
    try:
        yield store
    finally:
        await store.close()


def plain_client(server: RedisServer, **options: Any) -> redis.Redis:
    """A plain client of the driver's, to look behind the store."""
    return redis.Redis(port=server.port, password=server.password, **options)


def count_calls(admin: redis.Redis, command: str) -> int:
    return int(admin.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


def cluster_node() -> RedisServer:
    # The bus's port is 10,000 above the other one unless it is named, and that may be past the last.
    # On a busy machine a node that says nothing for a while is not down.
    patience = "--cluster-node-timeout", str(HANGS * 1000)
    return RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()), *patience)


def cluster_is_up(admin: redis.Redis) -> bool:
    return bool(admin.cluster("INFO")["cluster_state"] == "ok")


def wait_until(met: Callable[[], bool]) -> None:
    hangs = time.monotonic() + HANGS
    while not met():
        assert time.monotonic() < hangs, "it does not happen"
        time.sleep(0.02)


def tls_server() -> RedisServer:
    """A server with TLS: the system's, for the packaged one has none."""
    skip_if_left_out("redis-tls")
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.fail("apt-get install redis-server: the tests of TLS need a server that has it")
    return RedisServer(tls=True, password="pw", binary=binary)
