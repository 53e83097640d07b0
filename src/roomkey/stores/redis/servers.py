"""From a URL, or a client of the app's, to connections: what is in it is checked here, and nowhere shown."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from roomkey.errors import ConfigurationError
from roomkey.stores.loops import OneLoop
from roomkey.stores.redis import subscribers
from roomkey.stores.redis.cluster import Clustered
from roomkey.stores.redis.connections import Borrowed, Connections, Own
from roomkey.stores.redis.driver import check_client, check_driver
from roomkey.stores.text import has_port

__all__ = ["target_of"]


_Connections = TypeVar("_Connections", Borrowed, Clustered)


@dataclass(frozen=True, slots=True)
class _Target:
    """Which server, and how connections to it are made."""

    shown: str  # for people: never with a password
    where: str  # the address alone
    tls: bool
    clustered: bool
    connect: Callable[[], Any]  # called in each event loop: `Connections` to a server, or `Clustered`
    subscriber: Callable[[], AbstractAsyncContextManager[Any]]  # makes a client of the driver's, for one connection


def target_of(server: Any) -> _Target:
    return _by_url(server) if isinstance(server, str) else _by_client(server)


_TAKES = (
    "it takes redis://, rediss://, unix://, valkey://, valkeys://, redis+cluster:// or redis+sentinel://, "
    "or a client of redis.asyncio"
)


def _by_client(client: Any) -> _Target:
    execute = getattr(client, "execute_command", None)
    if isinstance(client, type):
        raise ConfigurationError(f"store: got the class {client.__name__}; {_TAKES}")
    if not inspect.iscoroutinefunction(execute):
        blocks = "" if execute is None else ", a client that blocks the event loop"
        raise ConfigurationError(f"store: got {type(client).__name__}{blocks}; {_TAKES}")
    home = OneLoop("the client given to RedisStore", "give a URL, and each loop gets connections of its own")

    def in_its_loop(connections: _Connections) -> _Connections:
        home.enter()
        return connections

    if hasattr(client, "nodes_manager"):
        if getattr(client, "read_from_replicas", False) or getattr(client, "load_balancing_strategy", None):
            raise ConfigurationError(
                "store: the client reads from replicas, which lag behind: a session that was ended would still be "
                "there; give a client without read_from_replicas and load_balancing_strategy"
            )
        check_client(client)
        shown, subscriber = f"({type(client).__name__})", partial(subscribers.of_cluster, client)
        return _Target(shown, "", False, True, lambda: in_its_loop(Clustered(client)), subscriber)
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        raise ConfigurationError(f"store: got {type(client).__name__}; {_TAKES}")
    check_client(client)
    where = _address(getattr(pool, "connection_kwargs", {}))
    shown, subscriber = f"({type(client).__name__})", partial(subscribers.lent, client)
    return _Target(shown, where, False, False, lambda: in_its_loop(Borrowed(pool)), subscriber)


def _address(options: dict[str, Any]) -> str:
    """Return where a client of the app's own connects to; nothing where it does not say."""
    if "host" in options:
        return f"{options['host']}:{options.get('port', 6379)}"
    return str(options.get("path", ""))


@dataclass(frozen=True, slots=True)
class _Address:
    """A URL taken apart."""

    kind: str  # "server", "unix", "cluster" or "sentinel"
    tls: bool
    hosts: list[tuple[str, int]]
    path: list[str]  # what is between the slashes
    options: dict[str, Any] = field(repr=False)  # for the driver's connections; the password is in it


# RFC 3986 appendix B. Not `urlsplit`: newer Pythons refuse a list of hosts with an IPv6 address in it.
_PARTS = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_SCHEMES = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "valkey": ("server", False),
    "valkeys": ("server", True),
    "unix": ("unix", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "valkey+cluster": ("cluster", False),
    "valkeys+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "valkey+sentinel": ("sentinel", False),
    "valkeys+sentinel": ("sentinel", True),
}

_WHOLE, _SECONDS, _WORD, _YES_NO = "a whole number", "a number of seconds", "text", "true or false"
_OPTIONS = {  # of redis-py's connections, with what each takes
    "client_name": _WORD,
    "db": _WHOLE,
    "health_check_interval": _WHOLE,
    "password": _WORD,
    "protocol": _WHOLE,
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _YES_NO,
    "socket_timeout": _SECONDS,
    "ssl_ca_certs": _WORD,
    "ssl_ca_path": _WORD,
    "ssl_cert_reqs": _WORD,
    "ssl_certfile": _WORD,
    "ssl_check_hostname": _YES_NO,
    "ssl_ciphers": _WORD,
    "ssl_keyfile": _WORD,
    "ssl_password": _WORD,
    "username": _WORD,
}
_SENTINEL_OPTIONS = {"sentinel_password": _WORD, "sentinel_username": _WORD}
_NOT_IN_A_CLUSTER = ("ssl_ca_path", "ssl_password")  # its client does not take them


def _known(kind: str) -> dict[str, str]:
    """Return which options the URL of such a server may have."""
    if kind == "sentinel":
        return {**_OPTIONS, **_SENTINEL_OPTIONS}
    return {name: takes for name, takes in _OPTIONS.items() if kind != "cluster" or name not in _NOT_IN_A_CLUSTER}


def _by_url(url: str) -> _Target:
    address = _parse(url)
    if importlib.util.find_spec("redis") is None:
        raise ConfigurationError("store: the packages for this store are missing: pip install 'roomkey[redis]'")
    check_driver(clustered=address.kind == "cluster")
    scheme = url.partition("://")[0]
    hosts = ",".join(f"{host}:{port}" for host, port in address.hosts)
    shown = f"{scheme}://{hosts}{'/' if address.path else ''}{'/'.join(address.path)}"
    where = hosts or address.options["path"]
    if address.kind == "cluster":
        cluster = _cluster_of(address)
        subscriber: Any = lambda: subscribers.of_own_cluster(cluster())  # noqa: E731
        return _Target(shown, where, address.tls, True, lambda: Clustered(cluster(), cluster), subscriber)
    if address.kind == "sentinel":
        subscriber = lambda: subscribers.behind_sentinels(_behind_sentinels(address))  # noqa: E731
        return _Target(shown, "", address.tls, False, lambda: _own_behind_sentinels(address), subscriber)
    subscriber = lambda: subscribers.of_server(*_kind_of_connection(address))  # noqa: E731
    return _Target(shown, where, address.tls, False, lambda: _own_server(address), subscriber)


def _parse(url: str) -> _Address:
    """Take a URL apart.

    Raises:
        ConfigurationError: it is not right. Nothing of it is shown but the scheme and the names of options.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise ConfigurationError(f"store: not a URL of Redis or Valkey; {_TAKES}")
    kind, tls = _SCHEMES[scheme]
    parts = _PARTS.fullmatch(rest)
    assert parts is not None  # any text has these parts
    netloc, urlpath, query, fragment = parts.groups("")
    user, _, hosts = netloc.rpartition("@")
    # What has an @ further on is a password that was split in the wrong place.
    if kind != "unix" and "@" not in urlpath + query + fragment and not all(map(has_port, hosts.split(","))):
        raise ConfigurationError(f"store: the {scheme} URL's port takes a number up to 65535: {scheme}://host:6379")
    try:
        addresses = [] if kind == "unix" else [_host(one, kind) for one in hosts.split(",")]
    except ValueError:  # its text would show the URL
        raise ConfigurationError(
            f"store: the {scheme} URL names no host and port; in a user name or password, write / ? # @ : and % as "
            "%2F %3F %23 %40 %3A and %25"
        ) from None
    if fragment or (kind == "server" and len(addresses) != 1) or (kind == "unix" and urlpath in ("", "/")):
        raise ConfigurationError(f"store: the {scheme} URL is not complete, or has a part too many; {_TAKES}")
    options = _options(scheme, query, _known(kind))
    _check_tls(scheme, options, tls)
    name, _, password = user.partition(":")
    if name:
        options["username"] = unquote(name)
    if password:
        options["password"] = unquote(password)
    if kind == "unix":
        options["path"] = unquote(urlpath)
        return _Address(kind, tls, [], [options["path"].lstrip("/")], options)
    path = [unquote(piece) for piece in urlpath.split("/") if piece]
    service = path[:1] if kind == "sentinel" else []
    database = path[len(service) :]
    if kind == "sentinel" and not service:
        raise ConfigurationError(f"store: the {scheme} URL names no service: {scheme}://host:26379/service/0")
    if len(database) > 1 or (database and not database[0].isdecimal()):
        raise ConfigurationError(f"store: the {scheme} URL's path takes the number of a database, such as /0")
    if database:
        options["db"] = int(database[0])
    if kind == "cluster" and options.pop("db", 0):
        raise ConfigurationError("store: a cluster has the database 0 only; take the number out of the URL")
    return _Address(kind, tls, addresses, path, options)


def _host(text: str, kind: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if parts.path or parts.query or "@" in text:
        raise ValueError
    # The port is checked by urlsplit. A name that is left out is this machine.
    return parts.hostname or "localhost", parts.port or (26379 if kind == "sentinel" else 6379)


def _options(scheme: str, query: str, known: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ConfigurationError(f"store: the {scheme} URL has the option {name!r}; it takes {', '.join(known)}")
        try:
            options[name] = _READ[known[name]](value)
        except (KeyError, ValueError):
            raise ConfigurationError(f"store: the {scheme} URL's option {name} takes {known[name]}") from None
    return options


def _check_tls(scheme: str, options: dict[str, Any], tls: bool) -> None:
    """Refuse at once what would look, on each try to connect, like a server that is down."""
    asked = [name for name in options if name.startswith("ssl_")]
    if asked and not tls:
        raise ConfigurationError(
            f"store: the {scheme} URL has the option {asked[0]!r} and speaks no TLS; write rediss:// (or "
            "rediss+cluster://, rediss+sentinel://)"
        )
    for name in asked:
        if name in _PATHS and not os.path.exists(options[name]):
            raise ConfigurationError(f"store: the {scheme} URL's option {name} names no file that is there")
    if options.get("ssl_cert_reqs", "none") not in _CERT_REQS:
        raise ConfigurationError(f"store: the {scheme} URL's option ssl_cert_reqs takes {', '.join(_CERT_REQS)}")


_PATHS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_CERT_REQS = ("none", "optional", "required")
_READ: dict[str, Callable[[str], Any]] = {
    _WHOLE: int,
    _SECONDS: float,
    _WORD: str,
    _YES_NO: lambda text: {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()],
}


def _connection_options(address: _Address) -> dict[str, Any]:
    """Return what the driver makes connections from."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return {
        # Limits on time are the caller's business, and a driver's own would cost a task for each operation.
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # no messages that nobody asked for
        **({} if address.kind == "unix" else {"socket_keepalive": True, "socket_keepalive_options": _KEEP_ALIVE}),
        **{name: value for name, value in address.options.items() if name not in _SENTINEL_OPTIONS},
    }


# A peer that went without a word is found out within a minute, and not by the request that needs it.
_KEEP_ALIVE = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name)
}


def _own_server(address: _Address) -> Connections:
    kind, options = _kind_of_connection(address)
    return Own(lambda: kind(**options))


def _kind_of_connection(address: _Address) -> tuple[Any, dict[str, Any]]:
    """Return the driver's class of connections to a server, and their options."""
    from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

    options = _connection_options(address)
    if address.kind == "unix":
        kind: Any = UnixDomainSocketConnection
    else:
        kind = SSLConnection if address.tls else Connection
        options["host"], options["port"] = address.hosts[0]
    return kind, options


def _own_behind_sentinels(address: _Address) -> Connections:
    client, close = _behind_sentinels(address)
    # The pool stays with its method: connections know their pool by a weak reference only.
    return Own(client.connection_pool.make_connection, close)


def _behind_sentinels(address: _Address) -> tuple[Any, Callable[[], Awaitable[None]]]:
    """Return a client of the primary, and what closes the connections to the sentinels."""
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    # Half a second for each: a sentinel that is down must not use up the time in which the next one would answer.
    asking: dict[str, Any] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": Retry(NoBackoff(), 0)}
    if address.tls:
        asking |= {"ssl": True, **{name: value for name, value in address.options.items() if name.startswith("ssl_")}}
    for name in _SENTINEL_OPTIONS:
        if name in address.options:
            asking[name.removeprefix("sentinel_")] = address.options[name]
    sentinel = Sentinel(address.hosts, sentinel_kwargs=asking, **_connection_options(address))  # type: ignore[no-untyped-call]
    client: Any = sentinel.master_for(address.path[0], ssl=address.tls)

    async def close() -> None:
        for one in sentinel.sentinels:
            await one.aclose()

    return client, close


def _cluster_of(address: _Address) -> Callable[[], Any]:
    """Return what makes the driver's client of a cluster."""
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import ConstantBackoff

    # These retries are for finding the node that has our slot; what sessions need is never sent by this client.
    options = {**_connection_options(address), "retry": Retry(ConstantBackoff(0.05), 3)}
    hosts = deque(address.hosts)

    def make() -> Any:
        nodes = [ClusterNode(host, port) for host, port in hosts]
        hosts.rotate(-1)  # the next one asks another first: this one may be silent
        return RedisCluster(startup_nodes=nodes, ssl=address.tls, **options)

    return make
