"""What a Redis server's or its driver's error means: named by a look at class names, for there are two drivers."""

from __future__ import annotations

import re

from roomkey.errors import StoreUnavailable
from roomkey.stores.unreachable import at, reason

__all__ = [
    "BROKEN",
    "FORBIDDEN",
    "FOREIGN",
    "NO_DATABASE",
    "READ_ONLY",
    "NotACluster",
    "NotSent",
    "SlotNotCovered",
    "SlotNotFound",
    "explained",
    "is_elsewhere",
    "is_named",
    "is_permanent",
    "unavailable",
]

FOREIGN = "a key holds something that is not a session; it was left alone (do two apps share a prefix?)"
READ_ONLY = "the Redis server is a read-only replica: put the primary's address into the URL"
FORBIDDEN = (
    "the Redis user may not do what sessions need: give it GET, MGET, SET, SETRANGE, DEL, EXISTS, PTTL, PEXPIRE, "
    "ZADD, ZREM, ZRANGE, ZREMRANGEBYSCORE, EVAL and EVALSHA on the keys that begin with the prefix, and in a cluster "
    "ZSCORE, COMMAND and CLUSTER SLOTS too"
)
NO_DATABASE = "the Redis server has no database of that number: correct it in the URL"
CLUSTERED = "the Redis server is part of a cluster: write redis+cluster:// in the URL"
_NO_CLUSTER = "the Redis server is no cluster: write redis:// in the URL, without +cluster"
# How a broken connection shows: uvloop says RuntimeError where a transport is closed.
BROKEN = ("ConnectionError", "RuntimeError")
_BY_NAME = {  # class names: redis-py and valkey-py each have classes of their own
    "AuthenticationError": "the Redis server refuses the user name or password: correct them in the URL",
    "NoPermissionError": FORBIDDEN,
    "BusyLoadingError": "the Redis server is loading its data after a start",
    "OutOfMemoryError": "the Redis server's memory is full (maxmemory): give it more",
    "ReadOnlyError": READ_ONLY,
    "MovedError": CLUSTERED,
    "NotACluster": CLUSTERED,
    "ClusterCrossSlotError": CLUSTERED,
    "AskError": "the Redis cluster is moving the sessions' slot to another node",
    "TryAgainError": "the Redis cluster is moving the sessions' slot to another node",
    "ClusterDownError": "the Redis cluster is down, or no node has the sessions' slot",
    "SlotNotCovered": "the Redis cluster is down, or no node has the sessions' slot",
    "SlotNotCoveredError": "the Redis cluster is down, or no node has the sessions' slot",
    "SlotNotFound": "the Redis cluster did not say in time which node has the sessions' slot",
    "MasterNotFoundError": "the sentinels know no primary of that name: correct it in the URL",
    "MaxConnectionsError": "the client's connections are all in use: give it more, or give the store a URL",
    "TimeoutError": "the Redis server did not answer in time",
}
_BY_WORD = {  # where the server says it inside a script's error
    "OOM": _BY_NAME["OutOfMemoryError"],
    "READONLY": READ_ONLY,
    "WRONGTYPE": FOREIGN,
    "MISCONF": "the Redis server cannot write to its disk and takes no changes (MISCONF): see its log",
    "NOREPLICAS": "the Redis server has fewer replicas than min-replicas-to-write asks for",
    "BUSY": "the Redis server is busy with another script",
    "NOPERM": FORBIDDEN,
    "ACL failure": FORBIDDEN,
    "The user executing the script": FORBIDDEN,
    "DB index is out of range": NO_DATABASE,
    "cluster support disabled": _NO_CLUSTER,
    "Cluster mode is not enabled": _NO_CLUSTER,
    "CROSSSLOT": CLUSTERED,
    "non local key": CLUSTERED,
    "max number of clients": "the Redis server takes no more connections (maxclients)",
}


class NotSent(Exception):
    """No connection could be had; the reason is the cause."""


class NotACluster(Exception):
    """The server is part of a cluster, and the URL says nothing of one."""


class SlotNotCovered(Exception):
    """No node of the cluster has our slot."""


class SlotNotFound(Exception):
    """The cluster did not say in time where our slot is."""


def is_named(answer: object, *names: str) -> bool:
    """Whether `answer` is an exception of one of these classes, whichever driver's."""
    return isinstance(answer, Exception) and any(kind.__name__ in names for kind in type(answer).__mro__)


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, NotSent) and error.__cause__ is not None:
        error = error.__cause__
    return error


def explained(error: BaseException, where: str = "") -> str:
    """Say what happened without the driver's words: they may hold keys or data.

    Args:
        error: the driver's, or `NotSent`.
        where: the server's address, for people.
    """
    connecting = isinstance(error, NotSent)
    error = _cause(error)
    text = str(error)
    if is_named(error, "MasterNotFoundError") and " : " in text:  # the driver adds what each sentinel met
        return f"sentinels cannot be reached{at(where)}, and none that answers knows the primary"
    for kind in type(error).__mro__:
        if kind.__name__ in _BY_NAME:
            return _BY_NAME[kind.__name__]
    for word, words in _BY_WORD.items():
        if re.search(rf"\b{word}\b", text):
            return words
    if _distrusts(error):
        return "the Redis server's certificate is not trusted: name its authority's file with ?ssl_ca_certs= in the URL"
    if not is_named(error, "ResponseError"):
        return _unreachable(error, where, connecting=connecting)
    code = re.match(r"[A-Z]{2,20}\b", text)
    return f"the Redis server refused ({code[0] if code else type(error).__name__})"


def _unreachable(error: BaseException, where: str, *, connecting: bool) -> str:
    what = "cluster" if is_named(error, "RedisClusterException") else "server"
    text = str(error)
    if "Protocol error" in text:
        return f"what answers{at(where)} is no Redis server: correct host and port in the URL"
    why = reason(error)
    if why is None or why.startswith("the connection was closed"):
        if "closed" not in text and why is None:
            return f"the Redis {what} cannot be reached{at(where)}"
        hint = (
            ": is it a Redis server, and does it want TLS (rediss://) or not?" if connecting else ": was it restarted?"
        )
        return f"the Redis {what} cannot be reached{at(where)}: the connection was closed{hint}"
    return f"the Redis {what} cannot be reached{at(where)}: {why}"


def is_elsewhere(answer: Exception) -> bool:
    """Whether the primary may be another server by now. (Redis 6.2 says READONLY inside a script's error.)"""
    return is_named(answer, "ClusterDownError") or explained(answer) == READ_ONLY


def is_permanent(error: Exception) -> bool:
    """Whether nothing but another configuration helps."""
    cause = _cause(error)
    said = explained(cause)
    return is_named(cause, "AuthenticationError") or _distrusts(cause) or said in _PERMANENT


_PERMANENT = (FORBIDDEN, NO_DATABASE, CLUSTERED, _NO_CLUSTER)


def _distrusts(error: BaseException | None) -> bool:
    """Whether a certificate is the reason."""
    while error is not None:
        if is_named(error, "SSLCertVerificationError"):
            return True
        error = error.__cause__ or error.__context__
    return False


def unavailable(error: Exception, where: str = "") -> StoreUnavailable:
    """Return an exception for one of those who wait: a shared one would collect the tracebacks of all."""
    return StoreUnavailable(explained(error, where))
