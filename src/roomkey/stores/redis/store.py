"""The store in Redis or Valkey: for several machines, and for the most sessions a second.

Loads that wait at the same time travel in one `MGET`, writes in one pipeline; each write is one Lua script, so that
compare-and-swap, the record and the index of its user's sessions are one atomic step and one round trip.

`places` says which keys there are. On one server, and on a cluster where the prefix has a hash tag, all sessions are in
one group. `writing` changes a record and the list of its user's sessions in one step there. The scripts work out the
name of that list from the record, so that it is not among their declared keys. Otherwise a cluster has 4,096 groups of
sessions, and `apart` says in which order a record and a list change that are in two slots.

Wiping is deleting the epoch of each group: a record of another generation, or of any while there is none, is absent.
The next session draws a new one. (Were a missing epoch a generation of its own, losing that key would bring wiped
sessions back.)

Durability is the server's: with `appendonly yes` at its default of `everysec` a crash loses up to a second, and
replication does not wait. `open` warns where a restart would log everybody out.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from types import CoroutineType
from typing import Any

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.options import named_options
from roomkey.stores.base import Record, Unreadable
from roomkey.stores.loops import LoopRegistry
from roomkey.stores.redis.apart import Apart
from roomkey.stores.redis.cluster_link import ClusterLink
from roomkey.stores.redis.cluster_tracking import ClusterTracking
from roomkey.stores.redis.errors import FOREIGN, READ_ONLY, is_permanent
from roomkey.stores.redis.link import Asking, Link, ServerLink
from roomkey.stores.redis.notices import Watched
from roomkey.stores.redis.places import KEY_LENGTH, Places, has_hash_tag
from roomkey.stores.redis.records import GENERATION_SIZE, NotARecord, decode
from roomkey.stores.redis.scanning import scan
from roomkey.stores.redis.scripts import Command, list_script, pack
from roomkey.stores.redis.servers import target_of
from roomkey.stores.redis.tracking import Tracking
from roomkey.stores.redis.writing import Together, Writing, moment
from roomkey.stores.sharing import LANES
from roomkey.stores.unreachable import at

__all__ = ["RedisStore"]

_log = logging.getLogger("roomkey")

_WIPED_IN_PART = "not every session has ended, for a node of the cluster did not answer; ask again ({})"


@named_options()
class RedisStore(Watched):
    """Keep sessions in Redis 6.2 or newer, or Valkey. Implements `Store`, `Lifespan`, `UserIndex`,
    `Scan`, `Discard`, `Watch` and `Wipe`.

    Args:
        server: a URL, or the app's own client (`redis.asyncio.Redis`, `redis.asyncio.RedisCluster` or
            `valkey.asyncio.Valkey`), which is used in the event loop where it is first used and is never closed. URLs:

            - `redis://user:password@host:6379/0`, `rediss://` with TLS; `valkey://` and `valkeys://` are the same
            - `unix:///path/to/redis.sock?db=0&password=...`
            - `redis+cluster://host1:6379,host2:6379`, `rediss+cluster://` with TLS
            - `redis+sentinel://user:password@host1:26379,host2:26379/service/0`, `rediss+sentinel://` with TLS, to
              the sentinels too; their own credentials are the options `sentinel_username` and `sentinel_password`

            The options after `?` are redis-py's: `ssl_ca_certs`, `ssl_cert_reqs`, `client_name` and so on.
        prefix: what every key begins with; default "roomkey:". Give apps that share a server one each. A cluster
            spreads the sessions over all of its nodes, but for a prefix with a hash tag (text in braces): that keeps
            all sessions on the shard that the tag names.
        max_connections: how many connections each process keeps at most, at least 2; default 4. Half of them carry
            loads and half writes, a batch at a time, and more than 4 bring nothing. In a cluster it is so many to each
            node. Does not count for a client of the app's own.
        clock: returns Unix time in seconds; default `time.time`.

    Raises:
        ConfigurationError: the URL or an option is wrong, or the driver is not installed or of a release that does not
            go with this store.
    """

    def __init__(
        self,
        server: Any,
        *,
        prefix: str = "roomkey:",
        max_connections: int = 4,
        clock: Callable[[], float] = system_time,
    ) -> None:
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"prefix: {prefix!r}; it takes text, such as 'roomkey:'")
        if not isinstance(max_connections, int) or isinstance(max_connections, bool) or max_connections < 2:
            raise ConfigurationError(f"max_connections: {max_connections!r}; it takes a whole number of at least 2")
        self._target = target_of(server)
        super().__init__(prefix, self._target.subscriber)
        self._prefix = prefix
        tagged = has_hash_tag(prefix)
        if self._target.clustered and "{" in prefix and not tagged:
            raise ConfigurationError(
                f"prefix: {prefix!r} has a brace and no hash tag, which would scatter keys that belong together over a "
                "cluster; it takes text without braces, which spreads the sessions, such as 'roomkey:'"
            )
        self._places = Places(prefix, spread=self._target.clustered and not tagged)
        self._lanes = min(LANES, max_connections // 2)
        self._clock = clock
        self._loops = LoopRegistry(self._connect)
        self._links = self._loops.by_loop
        self._writing: Writing = (Apart if self._places.spread else Together)(
            self._places, self._link, clock, self._telling
        )
        self._warned: set[str] = set()
        self._tracking: Tracking | ClusterTracking | None = None  # None: nobody wants to be told of changes

    def __repr__(self) -> str:
        return f"<RedisStore {self._target.shown} prefix={self._prefix!r}>"

    async def open(self) -> None:
        """Ask the server whether it can be used, and log a warning where sessions may get lost.

        Raises:
            ConfigurationError: it refuses the user, the password or a command, is too old, or is part of a cluster
                that the URL does not name as one.
            StoreUnavailable: it cannot be reached, is still loading its data, or is a read-only replica.
        """
        try:
            # There is no such key. But the script shows that this user may call scripts on our keys. The other two
            # commands may be forbidden, as they are at hosted servers.
            await self._writing.touch("0" * KEY_LENGTH, 0.0)
            servers = await self._link().primaries()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, Exception) and is_permanent(error.__cause__):
                raise ConfigurationError(str(error)) from error.__cause__
            raise
        for server in servers.values():
            info, save = await _asked(server, b"INFO"), await _asked(server, b"CONFIG", b"GET", b"save")
            self._judge(_info(info), _setting(save))

    async def close(self) -> None:
        """Close the connections of this event loop. Those of another loop are closed when that one ends."""
        await self._loops.close()

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None. Raises `Unreadable` where there is something else."""
        return await self._read(key)

    # Not `async def`: one coroutine less on the way of every request. The types are for pyright: to it, what the
    # protocol declares as `async def` returns a `CoroutineType`. To mypy it returns a `Coroutine`.

    def create(self, key: str, record: Record) -> CoroutineType[Any, Any, None]:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        return self._writing.create(key, record)  # type: ignore[return-value]

    def update(self, key: str, record: Record, *, version: int) -> CoroutineType[Any, Any, None]:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        return self._writing.update(key, record, version)  # type: ignore[return-value]

    def rotate(
        self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int
    ) -> CoroutineType[Any, Any, None]:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        return self._writing.rotate(key, new_key, record, tombstone, version)  # type: ignore[return-value]

    def touch(self, key: str, expires_at: float) -> CoroutineType[Any, Any, bool]:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        return self._writing.touch(key, expires_at)  # type: ignore[return-value]

    def delete(self, key: str) -> CoroutineType[Any, Any, None]:
        """Remove whatever is under `key`."""
        return self._writing.delete(key)  # type: ignore[return-value]

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        return (await self._look_up(user))[0]

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return some keys, and where to go on; an empty text: these were the last."""
        names, after = await scan(self._link(), self._places.pattern(), limit, after)
        return [self._places.key_in(name) for name in names], after

    async def discard_unreadable(self, user: str) -> int:
        """Remove those of a user's records that cannot be read; return how many went."""
        _, lost = await self._look_up(user)
        for key in lost:
            await self._link().writes.ask(Command((b"DEL", self._places.record(key))))
            await self._link().writes.ask(Command((b"ZREM", self._places.list_of(user), key.encode())))
        return len(lost)

    async def wipe(self) -> None:
        """End every session: without an epoch no record is live. Their memory comes back as they expire.

        Raises:
            StoreUnavailable: nobody's session has ended, or in a cluster some may not have: call it again.
        """
        asked = [self._link().writes.ask(Command((b"DEL", epoch))) for epoch in self._places.epochs()]
        failed = [each for each in await asyncio.gather(*asked, return_exceptions=True) if each.__class__ is not int]
        with suppress(StoreUnavailable):  # they have ended all the same
            await self._link().writes.ask(self._telling_of_wipe())
        if failed:
            for each in failed:
                if not isinstance(each, StoreUnavailable):
                    raise each
            raise StoreUnavailable(_WIPED_IN_PART.format(failed[0]) if len(asked) > 1 else str(failed[0])) from failed[
                0
            ]

    async def _look_up(self, user: str) -> tuple[list[tuple[str, Record]], list[str]]:
        """Return key and record of every live session of `user`, and the keys of what cannot be read.

        A session whose ID changes meanwhile is on the list under its new key before the record is, and until it is no
        more under its old one. So the list is read again as long as a record is not where an entry says. Where lists
        are apart from records, an entry may also come before its record, and is looked at again each time.
        """
        sessions: list[tuple[str, Record]] = []
        lost: list[str] = []
        settled: set[str] = set()
        missing: set[str] = set()
        moved = True
        while moved:
            command = Command((self._places.list_of(user), moment(self._clock())), list_script, keys=1)
            keys = [key for raw in await self._link().writes.ask(command) if (key := raw.decode()) not in settled]
            # Each is one more of the loads that share round trips. What cannot be read is nobody's session, and must
            # not keep the user from ending the others.
            found = await asyncio.gather(*(self._read(key) for key in keys), return_exceptions=True)
            moved = False
            for key, record in zip(keys, found, strict=True):
                if isinstance(record, BaseException):
                    if not isinstance(record, Unreadable):
                        raise record
                    lost.append(key)
                    settled.add(key)
                elif record is not None and record.user == user and record.successor is None:
                    sessions.append((key, record))
                    settled.add(key)
                else:
                    is_final = record is not None and record.successor is not None
                    # Perhaps rotated since the keys were listed: by now its new key is on the list.
                    moved = moved or is_final or key not in missing
                    if is_final or not self._places.spread:
                        settled.add(key)
                    missing.add(key)
        return sessions, lost

    async def _read(self, key: str) -> Record | None:
        value, epoch = await self._link().loads.ask(self._places.record(key))
        if value is None:
            return None
        try:
            record = decode(value)
        except NotARecord as error:
            raise Unreadable(FOREIGN) from error
        return record if value[:GENERATION_SIZE] == epoch and record.expires_at > self._clock() else None

    def _link(self) -> Link:
        return self._links.get(asyncio.get_running_loop()) or self._loops.enter()

    def _connect(self) -> Link:
        connections, where = self._target.connect(), self._target.where
        if self._target.clustered:
            return ClusterLink(connections, self._lanes, where)
        return ServerLink(connections, self._places.epochs()[0], self._lanes, where)

    def notices(self) -> Tracking | ClusterTracking:
        """Return what says in this process that records have changed. Raises ConfigurationError without hiredis."""
        if self._tracking is None:
            self._tracking = self._track()
        return self._tracking

    def _track(self) -> Tracking | ClusterTracking:
        beginnings = self._places.beginnings()

        def enter() -> None:
            self._link().tracking = self.notices()

        def to_node(name: str) -> Tracking:
            link = self._link()
            assert isinstance(link, ClusterLink)
            return Tracking(link.node(name).single, lambda: None, beginnings, pack((b"PING",)), repr(self))

        if self._target.clustered:
            return ClusterTracking(lambda: self._link().primaries(), to_node, enter)

        def single() -> Any:
            link = self._link()
            assert isinstance(link, ServerLink)
            return link.single()

        return Tracking(single, enter, beginnings, pack((b"GET", self._places.epochs()[0])), repr(self))

    def why_silent(self) -> str:
        """Say what may be wrong where the server does not answer in time. Nothing where it ever took a connection."""
        if any(link.has_connected for link in list(self._links.values())):
            return ""
        where = at(self._target.where)
        if self._target.tls:
            return f"no connection was made so far: does the server{where} speak TLS (rediss://) or not (redis://)?"
        return f"no connection was made so far: is there a Redis server{where}?"

    # What `open` finds

    def _judge(self, info: dict[str, str], save: str | None) -> None:
        version = info.get("redis_version", "")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < (6, 2):
            raise ConfigurationError(f"store: the server is Redis {version}; it takes 6.2 or newer, or Valkey")
        if info.get("role") == "slave" and info.get("slave_read_only") != "0":
            raise StoreUnavailable(READ_ONLY)
        policy = info.get("maxmemory_policy", "")
        if policy not in ("", "noeviction"):
            self._warn(
                f"maxmemory-policy is {policy}: when its memory is full the server throws out sessions that are in "
                "use, and the lists by which a user's sessions are found and ended; set it to noeviction (new sessions "
                "are refused then)"
            )
        if save == "" and info.get("aof_enabled") == "0":
            self._warn(
                "the server keeps sessions in memory only: when it restarts, everybody is logged out; set "
                "'appendonly yes' (or save points) in its configuration"
            )

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("session store %s: %s", self._target.shown, message)


async def _asked(server: Asking, *args: bytes) -> Any:
    """Return the answer to a command that may be forbidden; None where it is."""
    try:
        return await server.ask(Command(args))
    except StoreUnavailable:
        return None


def _info(answer: Any) -> dict[str, str]:
    """Return what INFO said; nothing where it is forbidden."""
    if not isinstance(answer, bytes):
        return {}
    lines = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _setting(answer: Any) -> str | None:
    """Return what CONFIG GET said of one setting; None where it is forbidden, as at hosted servers."""
    if isinstance(answer, dict):  # in the newer protocol, which a client of the app's own may speak
        answer = [piece for pair in answer.items() for piece in pair]
    if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], bytes):
        return answer[1].decode(errors="replace")
    return None
