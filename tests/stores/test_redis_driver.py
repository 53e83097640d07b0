"""The driver is checked when the store is made: redis-py does not promise all that Roomkey uses of it."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import valkey.asyncio
import valkey.asyncio.cluster
from redis._parsers.base import BaseParser
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection

from roomkey import SessionConfig
from roomkey.errors import ConfigurationError
from roomkey.stores.redis import RedisStore

_INSTALLED = version("redis").replace(".", r"\.")


class _Renamed(Connection):
    """As a later release might have it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stream = self._reader
        del self._reader


def _cluster() -> RedisCluster:
    return RedisCluster(startup_nodes=[ClusterNode("localhost", 7000)])


def test_a_driver_that_lacks_an_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that names things differently is refused when the configuration is made, with its version."""
    monkeypatch.setattr("redis.asyncio.connection.Connection", _Renamed)
    with pytest.raises(
        ConfigurationError, match=rf"redis {_INSTALLED} does not go with .* lacks _reader, is_connected; install"
    ):
        SessionConfig(secret_key="k" * 43, store="redis://localhost")


def test_a_parser_that_lacks_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is used of the connection's parser is looked at too."""
    monkeypatch.delattr(BaseParser, "parse_error")
    for url in ("redis://localhost", "unix:///s", "redis+sentinel://localhost/shop"):
        with pytest.raises(ConfigurationError, match=rf"redis {_INSTALLED} .* lacks _parser\.parse_error"):
            RedisStore(url)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(ClusterNode, "acquire_connection"), (ClusterNode, "disconnect"), (RedisCluster, "get_random_node")],
)
def test_a_cluster_client_that_lacks_a_method(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
    """A cluster's client is refused in the same way, ours and the app's own. One server does not need it."""
    client = _cluster()
    monkeypatch.delattr(kind, name)
    for server in ("redis+cluster://localhost", client):
        with pytest.raises(ConfigurationError, match=rf"redis {_INSTALLED} .* its {kind.__name__} lacks {name}"):
            RedisStore(server)
    RedisStore("redis://localhost")


def test_a_client_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of the app's own is checked by the connections that its pool makes. None is opened for that."""
    client = redis.asyncio.Redis()
    RedisStore(client)
    assert not client.connection_pool._in_use_connections
    monkeypatch.setattr(client.connection_pool, "connection_class", _Renamed)
    with pytest.raises(ConfigurationError, match=rf"redis {_INSTALLED} .* its _Renamed lacks _reader"):
        RedisStore(client)
    RedisStore(valkey.asyncio.Valkey())


def test_valkeys_own_cluster_client() -> None:
    """valkey-py's client for clusters is taken as redis-py's is."""
    client = valkey.asyncio.cluster.ValkeyCluster(startup_nodes=[valkey.asyncio.cluster.ClusterNode("localhost", 7000)])
    RedisStore(client)


def test_the_newest_release_that_may_be_installed_is_the_one_that_is_tested() -> None:
    """The extra takes no later minor release than the one that these tests run on."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (asked,) = project["project"]["optional-dependencies"]["redis"]
    bound = tuple(map(int, asked.partition("<")[2].split(".")))
    tested = tuple(map(int, version("redis").split(".")[:2]))
    assert bound > tested
    assert asked in project["dependency-groups"]["dev"]
