"""The store in Redis or Valkey: for several machines, and for the most sessions a second.

Loads that wait at the same time travel in one `MGET`, writes in one pipeline; each write is one Lua script, so that
compare-and-swap, the record and the index of its user's sessions are one atomic step and one round trip.

Keys, with the default prefix: `{roomkey}:s:<key>` holds a record, `{roomkey}:u:<user>` a sorted set of that user's
keys by expiry, and `{roomkey}:epoch` the generation that records must carry to be live. The braces are a hash tag: in
a cluster all of them share one slot and so one shard, which is what makes scripts over several of them possible. The
scripts work out a user's key from the record, so it is not among their declared keys.

Wiping is deleting the epoch: a record of another generation, or of any while there is none, is absent. The next session
draws a new one. (Were a missing epoch a generation of its own, losing that key would bring wiped sessions back.)

Durability is the server's: with `appendonly yes` at its default of `everysec` a crash loses up to a second, and
replication does not wait. `open` warns where a restart would log everybody out.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
from collections.abc import Callable
from typing import Any

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.options import named_options
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.stores.loops import LoopRegistry
from roomkey.stores.redis.errors import FOREIGN, READ_ONLY, is_named, is_permanent
from roomkey.stores.redis.link import Link
from roomkey.stores.redis.records import GENERATION_SIZE, MOMENT, NotARecord, decode, encode, live_marks
from roomkey.stores.redis.scripts import (
    Command,
    Script,
    create_script,
    delete_script,
    list_script,
    rotate_script,
    touch_script,
    update_script,
)
from roomkey.stores.redis.servers import target_of
from roomkey.stores.sharing import LANES
from roomkey.stores.unreachable import at

__all__ = ["RedisStore"]

_log = logging.getLogger("roomkey")

_PAUSE_LEAST, _PAUSE_MOST = 0.01, 0.1  # seconds between two tries while a cluster moves the slot
_PATIENCE_MOVING = 1.5  # seconds for which a write waits for the keys of its session to be on one node
_LONGEST = 253402300800.0  # seconds that the server can keep a key


@named_options()
class RedisStore:
    """Keep sessions in Redis 6.2 or newer, or Valkey. Implements `Store`, `Lifespan`, `UserIndex`,
    `Scan`, `Discard` and `Wipe`.

    Args:
        server: a URL, or the app's own client (`redis.asyncio.Redis`, `redis.asyncio.RedisCluster` or
            `valkey.asyncio.Valkey`), which is used in the event loop where it is first used and is never closed. URLs:

            - `redis://user:password@host:6379/0`, `rediss://` with TLS; `valkey://` and `valkeys://` are the same
            - `unix:///path/to/redis.sock?db=0&password=...`
            - `redis+cluster://host1:6379,host2:6379`, `rediss+cluster://` with TLS
            - `redis+sentinel://user:password@host1:26379,host2:26379/service/0`, `rediss+sentinel://` with TLS, to
              the sentinels too; their own credentials are the options `sentinel_username` and `sentinel_password`

            The options after `?` are redis-py's: `ssl_ca_certs`, `ssl_cert_reqs`, `client_name` and so on.
        prefix: what every key begins with; default "{roomkey}:". Give apps that share a server one each. In a cluster
            it needs a hash tag (text in braces), and all sessions live on the shard that the tag names.
        max_connections: how many connections each process keeps at most, at least 2; default 4. Half of them carry
            loads and half writes, a batch at a time, and more than 4 bring nothing. Does not count for a client of
            the app's own.
        clock: returns Unix time in seconds; default `time.time`.

    Raises:
        ConfigurationError: the URL or an option is wrong, or the driver is not installed or of a release that does not
            go with this store.
    """

    def __init__(
        self,
        server: Any,
        *,
        prefix: str = "{roomkey}:",
        max_connections: int = 4,
        clock: Callable[[], float] = system_time,
    ) -> None:
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"prefix: {prefix!r}; it takes text, such as '{{roomkey}}:'")
        if not isinstance(max_connections, int) or isinstance(max_connections, bool) or max_connections < 2:
            raise ConfigurationError(f"max_connections: {max_connections!r}; it takes a whole number of at least 2")
        self._target = target_of(server)
        if self._target.clustered and not re.search(r"^[^{]*\{[^}]+\}", prefix):
            raise ConfigurationError(
                f"prefix: {prefix!r} has no hash tag, which keeps all keys in one slot of a cluster; "
                f"write '{{{prefix.strip(':')}}}:'"
            )
        self._prefix = prefix
        self._records = prefix.encode() + b"s:"
        self._every = re.sub(rb"([\\*?\[\]])", rb"\\\1", self._records) + b"?" * 64  # as a pattern of SCAN's
        self._users = prefix.encode() + b"u:"
        self._epoch = prefix.encode() + b"epoch"
        self._lanes = min(LANES, max_connections // 2)
        self._clock = clock
        self._loops = LoopRegistry(self._connect)
        self._links = self._loops.by_loop
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"<RedisStore {self._target.shown} prefix={self._prefix!r}>"

    async def open(self) -> None:
        """Ask the server whether it can be used, and log a warning where sessions may get lost.

        Raises:
            ConfigurationError: it refuses the user, the password or a command, is too old, or is part of a cluster
                that the URL does not name as one.
            StoreUnavailable: it cannot be reached, is still loading its data, or is a read-only replica.
        """
        # There is no such key. But the script shows that this user may call scripts on our keys. The other two commands
        # may be forbidden, as they are at hosted servers.
        probe = _call(touch_script, (self._records, self._epoch), self._clock(), (MOMENT.pack(0.0),))
        try:
            await self._link().writes.ask(probe)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, Exception) and is_permanent(error.__cause__):
                raise ConfigurationError(str(error)) from error.__cause__
            raise
        info, save = await self._asked(b"INFO"), await self._asked(b"CONFIG", b"GET", b"save")
        self._judge(_info(info), _setting(save))

    async def close(self) -> None:
        """Close the connections of this event loop. Those of another loop are closed when that one ends."""
        await self._loops.close()

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None. Raises `Unreadable` where there is something else."""
        return await self._read(key)

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        now, name = self._clock(), key.encode()
        keys: tuple[bytes, ...] = (self._records + name, self._epoch)
        # The generation is for the first session of all, and for the first one after a wipe.
        args: tuple[bytes, ...] = (encode(record), secrets.token_bytes(GENERATION_SIZE), _lives(record, now))
        if record.user is not None:
            keys += (self._users + record.user.encode(),)
            args += (_moment(record.expires_at), name)
        await self._swap(create_script, keys, now, args)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        keys = (self._records + key.encode(), self._epoch)
        await self._swap(update_script, keys, self._clock(), (live_marks(version), encode(record)))

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        now, name, new_name = self._clock(), key.encode(), new_key.encode()
        keys: tuple[bytes, ...] = (self._records + name, self._epoch, self._records + new_name)
        args: tuple[bytes, ...] = (live_marks(version), encode(record), encode(tombstone))
        args += (_lives(record, now), _lives(tombstone, now))
        if record.user is not None:
            keys += (self._users + record.user.encode(),)
            args += (_moment(record.expires_at), new_name, name)
        await self._swap(rotate_script, keys, now, args)

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        keys = (self._records + key.encode(), self._epoch)
        return bool(await self._run(touch_script, keys, self._clock(), (MOMENT.pack(expires_at),)))

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._run(delete_script, (self._records + key.encode(), self._epoch), self._clock(), ())

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        return (await self._look_up(user))[0]

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return some keys, and where to go on; an empty text: these were the last."""
        command = Command((b"SCAN", after.encode() or b"0", b"MATCH", self._every, b"COUNT", b"%d" % limit))
        cursor, names = await self._link().writes.ask(command)
        keys = [name.decode(errors="replace") for name in (name[len(self._records) :] for name in names)]
        return keys, "" if cursor == b"0" else cursor.decode()

    async def discard_unreadable(self, user: str) -> int:
        """Remove those of a user's records that cannot be read; return how many went."""
        _, lost = await self._look_up(user)
        for key in lost:
            await self._link().writes.ask(Command((b"DEL", self._records + key.encode())))
            await self._link().writes.ask(Command((b"ZREM", self._users + user.encode(), key.encode())))
        return len(lost)

    async def wipe(self) -> None:
        """End every session: without an epoch no record is live. Their memory comes back as they expire."""
        await self._link().writes.ask(Command((b"DEL", self._epoch)))

    async def _look_up(self, user: str) -> tuple[list[tuple[str, Record]], list[str]]:
        """Return key and record of every live session of `user`, and the keys of what cannot be read."""
        sessions: list[tuple[str, Record]] = []
        lost: list[str] = []
        seen: set[str] = set()
        moved = True
        while moved:
            command = Command((self._users + user.encode(), _moment(self._clock())), list_script, keys=1)
            keys = [key for raw in await self._link().writes.ask(command) if (key := raw.decode()) not in seen]
            seen.update(keys)
            # Each is one more of the loads that share round trips. What cannot be read is nobody's session, and must
            # not keep the user from ending the others.
            found = await asyncio.gather(*(self._read(key) for key in keys), return_exceptions=True)
            moved = False
            for key, record in zip(keys, found, strict=True):
                if isinstance(record, BaseException):
                    if not isinstance(record, Unreadable):
                        raise record
                    lost.append(key)
                elif record is not None and record.user == user and record.successor is None:
                    sessions.append((key, record))
                else:
                    moved = True  # perhaps rotated since the keys were listed: by now its new key is on the list
        return sessions, lost

    async def _read(self, key: str) -> Record | None:
        value, epoch = await self._link().loads.ask(self._records + key.encode())
        if value is None:
            return None
        try:
            record = decode(value)
        except NotARecord as error:
            raise Unreadable(FOREIGN) from error
        return record if value[:GENERATION_SIZE] == epoch and record.expires_at > self._clock() else None

    async def _swap(self, script: Script, keys: tuple[bytes, ...], now: float, args: tuple[bytes, ...]) -> None:
        if not await self._run(script, keys, now, args):
            raise Conflict

    async def _run(self, script: Script, keys: tuple[bytes, ...], now: float, args: tuple[bytes, ...]) -> int:
        command = _call(script, keys, now, args)
        try:
            answer: int = await self._link().writes.ask(command)
        except StoreUnavailable as error:
            answer = await self._run_when_together(command, error)
        if answer < 0:
            raise StoreUnavailable(FOREIGN)
        return answer

    async def _run_when_together(self, command: Command, error: StoreUnavailable) -> int:
        """Run what was not run because a cluster moves its keys one by one: some were on this node, some on another.

        It waits outside of the round trips, which are free for others meanwhile.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _PATIENCE_MOVING, _PAUSE_LEAST
        while is_named(error.__cause__, "TryAgainError") and loop.time() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)
            try:
                answer: int = await self._link().writes.ask(command)
                return answer
            except StoreUnavailable as again:
                error = again
        raise error

    def _link(self) -> Link:
        return self._links.get(asyncio.get_running_loop()) or self._loops.enter()

    def _connect(self) -> Link:
        return Link(self._target.connect(self._epoch), self._epoch, self._lanes, self._target.where)

    def why_silent(self) -> str:
        """Say what may be wrong where the server does not answer in time. Nothing where it ever took a connection."""
        if any(link.has_connected for link in list(self._links.values())):
            return ""
        where = at(self._target.where)
        if self._target.tls:
            return f"no connection was made so far: does the server{where} speak TLS (rediss://) or not (redis://)?"
        return f"no connection was made so far: is there a Redis server{where}?"

    # What `open` finds

    async def _asked(self, *args: bytes) -> Any:
        """Return the answer to a command that may be forbidden; None where it is."""
        try:
            return await self._link().writes.ask(Command(args))
        except StoreUnavailable:
            return None

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


def _call(script: Script, keys: tuple[bytes, ...], now: float, args: tuple[bytes, ...]) -> Command:
    return Command((*keys, _moment(now), *args), script, len(keys))


def _moment(moment: float) -> bytes:
    return repr(float(moment)).encode()


def _lives(record: Record, now: float) -> bytes:
    """Return for how many milliseconds the server keeps a record, a minute longer than it lives. Empty: it has expired.

    Not until when: the server's clock may go differently from ours.
    """
    if record.expires_at <= now:
        return b""
    return b"%d" % math.ceil((min(record.expires_at - now, _LONGEST) + 60) * 1000)


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
