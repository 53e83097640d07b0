"""What the store uses of redis-py or valkey-py that they do not promise to keep, and the check that it is there.

Connections are driven past the driver's clients (`connections.py` says why). A release that lacks what that takes is
refused when the store is made, and not by the first request.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from roomkey.errors import ConfigurationError

__all__ = ["check_client", "check_driver"]

_OF_A_CONNECTION = ("_reader", "_writer", "is_connected", "send_packed_command", "read_response")
_OF_OUR_CONNECTION = (*_OF_A_CONNECTION, "_parser.parse_error", "protocol", "socket_timeout")
_OF_A_CLUSTER = ("initialize", "get_node", "get_random_node", "aclose", "nodes_manager")
_OF_ITS_NODES = ("acquire_connection", "_free", "disconnect")
_OF_ITS_MAP = ("nodes_cache", "startup_nodes", "connection_kwargs", "remap_host_port")


def check_driver(*, clustered: bool) -> None:
    """Check the installed redis-py, for a store that makes its connections itself.

    Raises:
        ConfigurationError: it lacks something. The message names its version.
    """
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.connection import Connection

    _check(Connection(), _OF_OUR_CONNECTION, "redis")
    if clustered:
        node = ClusterNode("localhost", 6379)
        _check(node, _OF_ITS_NODES, "redis")
        _check_cluster(RedisCluster(startup_nodes=[node]), "redis")


def check_client(client: Any) -> None:
    """Check the driver by a client of the app's own.

    Raises:
        ConfigurationError: it lacks something. The message names the driver and its version.
    """
    package = type(client).__module__.partition(".")[0]
    if hasattr(client, "nodes_manager"):
        _check_cluster(client, package)
        for node in client.nodes_manager.startup_nodes.values():
            _check(node, _OF_ITS_NODES, package)
        return
    make = getattr(client.connection_pool, "make_connection", None)
    if make is not None:  # a pool of the app's own making may do without it
        _check(make(), _OF_A_CONNECTION, package)


def _check_cluster(client: Any, package: str) -> None:
    _check(client, _OF_A_CLUSTER, package)
    _check(client.nodes_manager, _OF_ITS_MAP, package)


def _check(thing: Any, names: Iterable[str], package: str) -> None:
    lacks = [name for name in names if not _has(thing, name)]
    if lacks:
        version = getattr(sys.modules.get(package), "__version__", "of an unknown version")
        raise ConfigurationError(
            f"store: {package} {version} does not go with this version of Roomkey: its {type(thing).__name__} lacks "
            f"{', '.join(lacks)}; install a release that does: pip install 'roomkey[redis]'"
        )


def _has(thing: Any, name: str) -> bool:
    try:
        attrgetter(name)(thing)
    except AttributeError:
        return False
    return True
