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

The connections are driven directly rather than through `Redis.execute_command`, which takes a quarter longer and does
not say whether a command that failed had been sent. That matters. A write whose answer was lost may have been done;
sent again it would be refused, and what is then laid over it would run `Session.change` functions twice. So a
connection is checked to be alive before anything is sent, a write is sent once, and only a load is sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import inspect
import logging
import re
import secrets
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Record

__all__ = ["RedisStore"]

_log = logging.getLogger("roomkey")

_MOST_AT_ONCE = 64  # operations in one batch: bounds how long the first of them waits for the others
_IN_FLIGHT = 2  # batches of loads under way at once, and as many of writes: a third gains nothing (measured)
_PATIENCE_CLOSING = 1.0  # seconds that a connection may take to say good-bye
_REDIRECTIONS = 3  # times that a command follows its slot to another node

# --- the record as bytes ---------------------------------------------------------------------------------------------

# generation (16 bytes, put in front by the scripts) | mark, tombstone?, version, created_at, expires_at, serve_until,
# sizes of user, successor, ip, user_agent and data | these five. Scripts read version, expiry and user in place.
_HEAD = struct.Struct(">4scQdddIIIII")
_MARK = b"RKR1"  # one of our records, in its first format
_GENERATION = 16  # bytes
_START = _GENERATION + _HEAD.size
_NONE = 0xFFFFFFFF  # as a size: the text is None
_MOMENT = struct.Struct(">d")


def _encode(record: Record) -> bytes:
    """Return a record without its generation."""
    texts = (record.user, record.successor, record.ip, record.user_agent)
    raw = [None if text is None else text.encode() for text in texts]
    head = _HEAD.pack(
        _MARK,
        b"-" if record.successor is None else b"T",
        record.version,
        record.created_at,
        record.expires_at,
        record.serve_until,
        *(_NONE if text is None else len(text) for text in raw),
        len(record.data),
    )
    return b"".join((head, *(text for text in raw if text is not None), record.data))


class _NotARecord(Exception):
    """What is under the key is not a record, or is damaged."""


def _decode(value: bytes) -> Record:
    """Return the record in `value`, generation and all.

    Raises:
        _NotARecord: it is none.
    """
    if len(value) < _START:
        raise _NotARecord
    mark, kind, version, created_at, expires_at, serve_until, *sizes = _HEAD.unpack_from(value, _GENERATION)
    if mark != _MARK:
        raise _NotARecord
    at = _START
    texts: list[str | None] = []
    for size in sizes[:4]:
        if size == _NONE:
            texts.append(None)
            continue
        try:
            texts.append(value[at : at + size].decode())
        except UnicodeDecodeError as error:
            raise _NotARecord from error
        at += size
    user, successor, ip, user_agent = texts
    if len(value) - at != sizes[4] or (kind == b"T") is (successor is None):
        raise _NotARecord
    return Record(value[at:], version, created_at, expires_at, user, successor, serve_until, ip, user_agent)


# --- the scripts -----------------------------------------------------------------------------------------------------

# KEYS[1] is the record and KEYS[2] the epoch; ARGV[1] is the time. They answer 1: done, 0: refused, -1: there is
# something else under the key. What may raise (a key of another type, no memory) comes before the first change, and
# the index before the record: a script that fails has changed nothing.
_PRELUDE = """
local now = tonumber(ARGV[1])
local epoch = redis.call('GET', KEYS[2])
local prefix = string.sub(KEYS[2], 1, -6)

local function read(key)
  local value = redis.call('GET', key)
  if not value then return nil, false end
  if #value < 73 or string.sub(value, 17, 20) ~= 'RKR1' then return nil, true end
  if string.sub(value, 1, 16) ~= epoch or struct.unpack('>d', value, 38) <= now then return nil, false end
  return value, false
end

local function expiry(body) return (struct.unpack('>d', body, 22)) end

local function owner(body)
  local size = struct.unpack('>I4', body, 38)
  if size == 4294967295 then return nil end
  return string.sub(body, 58, 57 + size)
end

local function forget_at(moment)
  return string.format('%.0f', math.ceil((math.min(moment, 253402300800) + 60) * 1000))
end

local function put(key, body)
  redis.call('SET', key, epoch .. body, 'PXAT', forget_at(expiry(body)))
end

local function member(key) return string.sub(key, #prefix + 3) end

local function unlist(user, key)
  redis.call('ZREM', prefix .. 'u:' .. user, member(key))
end

local function list(user, key, expires)
  local index = prefix .. 'u:' .. user
  redis.call('ZADD', index, expires, member(key))
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now - 60)
  local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')
  if last[2] then redis.call('PEXPIREAT', index, forget_at(tonumber(last[2]))) end
end
"""

_CREATE = """
local old, foreign = read(KEYS[1])
if foreign or (epoch and #epoch ~= 16) then return -1 end
if old then return 0 end
local body = ARGV[2]
if not epoch then
  epoch = ARGV[3]
  redis.call('SET', KEYS[2], epoch)
end
local expires, user = expiry(body), owner(body)
if expires <= now then
  redis.call('DEL', KEYS[1])
  return 1
end
if user then list(user, KEYS[1], expires) end
put(KEYS[1], body)
return 1
"""

_IS_AT_VERSION = """
local old, foreign = read(KEYS[1])
if foreign then return -1 end
if not old or string.sub(old, 21, 21) == 'T' or string.sub(old, 22, 29) ~= ARGV[2] then return 0 end
local before = string.sub(old, 17)
local was = owner(before)
"""

_UPDATE = """
local body = ARGV[3]
local expires, user = expiry(body), owner(body)
if expires <= now then
  if was then unlist(was, KEYS[1]) end
  redis.call('DEL', KEYS[1])
  return 1
end
if user and (user ~= was or expires ~= expiry(before)) then list(user, KEYS[1], expires) end
if was and was ~= user then unlist(was, KEYS[1]) end
put(KEYS[1], body)
return 1
"""

_ROTATE = """
local taken, foreign_too = read(KEYS[3])
if foreign_too then return -1 end
if taken then return 0 end
local body, tombstone = ARGV[3], ARGV[4]
local expires, user = expiry(body), owner(body)
if user and expires > now then list(user, KEYS[3], expires) end
if was then unlist(was, KEYS[1]) end
if expiry(tombstone) > now then put(KEYS[1], tombstone) else redis.call('DEL', KEYS[1]) end
if expires > now then put(KEYS[3], body) else redis.call('DEL', KEYS[3]) end
return 1
"""

_TOUCH = """
local old, foreign = read(KEYS[1])
if foreign then return -1 end
if not old or string.sub(old, 21, 21) == 'T' then return 0 end
local before = string.sub(old, 17)
local expires, user = struct.unpack('>d', ARGV[2]), owner(before)
if expires > expiry(before) then
  if user then list(user, KEYS[1], expires) end
  redis.call('SETRANGE', KEYS[1], 37, ARGV[2])
  redis.call('PEXPIREAT', KEYS[1], forget_at(expires))
end
return 1
"""

_DELETE = """
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' and #value >= 73 and string.sub(value, 17, 20) == 'RKR1' then
  local user = owner(string.sub(value, 17))
  if user then unlist(user, KEYS[1]) end
end
redis.call('DEL', KEYS[1])
return 1
"""

_LIST = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', tonumber(ARGV[1]) - 60)
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""


class _Script:
    """A Lua script and the name that the server knows it by once it has seen it."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


_create_script = _Script(_PRELUDE + _CREATE)
_update_script = _Script(_PRELUDE + _IS_AT_VERSION + _UPDATE)
_rotate_script = _Script(_PRELUDE + _IS_AT_VERSION + _ROTATE)
_touch_script = _Script(_PRELUDE + _TOUCH)
_delete_script = _Script(_PRELUDE + _DELETE)
_list_script = _Script(_LIST)


@dataclass(frozen=True, slots=True)
class _Command:
    """What is sent to the server: a command, or a call of a script."""

    args: tuple[bytes, ...]
    script: _Script | None = None  # None: `args` is all of it
    keys: int = 0  # how many of a script's arguments are keys

    def packed(self, *, with_source: bool = False) -> bytes:
        if self.script is None:
            return _pack(self.args)
        name = (b"EVAL", self.script.source) if with_source else (b"EVALSHA", self.script.sha)
        return _pack((*name, b"%d" % self.keys, *self.args))


def _pack(args: Sequence[bytes]) -> bytes:
    """Return a command in the server's protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    pieces = [b"*%d\r\n" % len(args)]
    for arg in args:
        pieces += (b"$%d\r\n" % len(arg), arg, b"\r\n")
    return b"".join(pieces)


# --- the store -------------------------------------------------------------------------------------------------------


class RedisStore:
    """Keep sessions in Redis 6.2 or newer, or Valkey. Implements `Store`, `Lifespan`, `UserIndex` and `Wipe`.

    Args:
        server: a URL, or the app's own client (`redis.asyncio.Redis`, `redis.asyncio.RedisCluster` or valkey-py's),
            which is used in the event loop where it is first used and is never closed. URLs:

            - `redis://user:password@host:6379/0`, `rediss://` with TLS; `valkey://` and `valkeys://` are the same
            - `unix:///path/to/redis.sock?db=0&password=...`
            - `redis+cluster://host1:6379,host2:6379`, `rediss+cluster://` with TLS
            - `redis+sentinel://user:password@host1:26379,host2:26379/service/0`, `rediss+sentinel://` with TLS; the
              sentinels' own credentials are the options `sentinel_username` and `sentinel_password`

            The options after `?` are redis-py's: `ssl_ca_certs`, `ssl_cert_reqs`, `client_name` and so on.
        prefix: what every key begins with; default "{roomkey}:". Give apps that share a server one each. In a cluster
            it needs a hash tag (text in braces), and all sessions live on the shard that the tag names.
        max_connections: how many connections each process keeps at most, at least 2; default 4. Half of them carry
            loads and half writes, a batch at a time, and more than 4 bring nothing. Does not count for a client of
            the app's own.
        clock: returns Unix time in seconds; default `time.time`.

    Raises:
        ConfigurationError: the URL or an option is wrong, or the driver is not installed.
    """

    def __init__(
        self,
        server: Any,
        *,
        prefix: str = "{roomkey}:",
        max_connections: int = 4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"prefix: {prefix!r}; it takes text, such as '{{roomkey}}:'")
        if not isinstance(max_connections, int) or isinstance(max_connections, bool) or max_connections < 2:
            raise ConfigurationError(f"max_connections: {max_connections!r}; it takes a whole number of at least 2")
        self._target = _target_of(server)
        if self._target.clustered and not re.search(r"^[^{]*\{[^}]+\}", prefix):
            raise ConfigurationError(
                f"prefix: {prefix!r} has no hash tag, which keeps all keys in one slot of a cluster; "
                f"write '{{{prefix.strip(':')}}}:'"
            )
        self._prefix = prefix
        self._records = prefix.encode() + b"s:"
        self._users = prefix.encode() + b"u:"
        self._epoch = prefix.encode() + b"epoch"
        self._lanes = min(_IN_FLIGHT, max_connections // 2)
        self._clock = clock
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._lock = threading.Lock()  # held while `_links` changes: there may be an event loop in another thread
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
        # The script that changes nothing here shows that this user may call scripts on our keys. The other two may be
        # refused, as they are at hosted servers.
        probe = self._call(_touch_script, [""], _MOMENT.pack(0.0))
        commands = [probe, _Command((b"INFO",)), _Command((b"CONFIG", b"GET", b"save"))]
        answer, info, save = [await self._link().writes.get(command) for command in commands]
        if isinstance(answer, Exception):
            raise (ConfigurationError if _is_permanent(answer) else StoreUnavailable)(_words(answer)) from answer
        self._judge(_info(info), _setting(save))

    async def close(self) -> None:
        """Close the connections of this event loop. Those of another loop are closed when that one ends."""
        with self._lock:
            self._drop_ended()
            link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.close()

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None."""
        try:
            return await self._read(key)
        except _NotARecord as error:
            raise StoreUnavailable(_FOREIGN) from error

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        # The last argument: the generation, should this be the first session of all or after a wipe.
        await self._swap(_create_script, [key], _encode(record), secrets.token_bytes(_GENERATION))

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        await self._swap(_update_script, [key], version.to_bytes(8, "big"), _encode(record))

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        body, left_behind = _encode(record), _encode(tombstone)
        await self._swap(_rotate_script, [key, new_key], version.to_bytes(8, "big"), body, left_behind)

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        return bool(await self._run(_touch_script, [key], _MOMENT.pack(expires_at)))

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._run(_delete_script, [key])

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        command = _Command((self._users + user.encode(), self._now()), _list_script, keys=1)
        keys = [raw.decode() for raw in await self._link().writes.ask(command)]
        # Each is one more of the loads that share round trips. What cannot be read is nobody's session, and must not
        # keep the user from ending the others.
        found = await asyncio.gather(*(self._read(key) for key in keys), return_exceptions=True)
        sessions: list[tuple[str, Record]] = []
        for key, record in zip(keys, found, strict=True):
            if isinstance(record, BaseException):
                if not isinstance(record, _NotARecord):
                    raise record
            elif record is not None and record.user == user and record.successor is None:
                sessions.append((key, record))
        return sessions

    async def wipe(self) -> None:
        """End every session: without an epoch no record is live. Their memory comes back as they expire."""
        await self._link().writes.ask(_Command((b"DEL", self._epoch)))

    async def _read(self, key: str) -> Record | None:
        """Load a record. Raises _NotARecord where there is something else."""
        value, epoch = await self._link().loads.ask(self._records + key.encode())
        if value is None:
            return None
        record = _decode(value)
        return record if value[:_GENERATION] == epoch and record.expires_at > self._clock() else None

    async def _swap(self, script: _Script, keys: list[str], *args: bytes) -> None:
        if not await self._run(script, keys, *args):
            raise Conflict

    async def _run(self, script: _Script, keys: list[str], *args: bytes) -> int:
        answer: int = await self._link().writes.ask(self._call(script, keys, *args))
        if answer < 0:
            raise StoreUnavailable(_FOREIGN)
        return answer

    def _call(self, script: _Script, keys: list[str], *args: bytes) -> _Command:
        first, *others = [self._records + key.encode() for key in keys]
        return _Command((first, self._epoch, *others, self._now(), *args), script, keys=len(keys) + 1)

    def _now(self) -> bytes:
        return repr(float(self._clock())).encode()

    # Links

    def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        return self._connect(loop) if link is None or link.closed else link

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Link:
        with self._lock:
            self._drop_ended()
            link = self._links[loop] = _Link(self._target.connect(self._epoch), self._epoch, self._lanes)
        link.close_with_loop()
        return link

    def _drop_ended(self) -> None:
        for loop in [loop for loop, link in self._links.items() if loop.is_closed() or link.closed]:
            del self._links[loop]

    # What `open` found

    def _judge(self, info: dict[str, str], save: str | None) -> None:
        version = info.get("redis_version", "")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < (6, 2):
            raise ConfigurationError(f"store: the server is Redis {version}; it takes 6.2 or newer, or Valkey")
        if info.get("role") == "slave" and info.get("slave_read_only") != "0":
            raise StoreUnavailable(_READ_ONLY)
        policy = info.get("maxmemory_policy", "")
        if policy.startswith("allkeys-"):
            self._warn(
                f"maxmemory-policy is {policy}: when its memory is full the server throws out sessions that are in "
                "use; set it to noeviction (new sessions are refused then) or to volatile-ttl (those that end soonest "
                "go first)"
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


def _info(answer: Any) -> dict[str, str]:
    """Return what INFO said; nothing where it is refused."""
    if not isinstance(answer, bytes):
        return {}
    lines = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _setting(answer: Any) -> str | None:
    """Return what CONFIG GET said of one setting; None where it is refused, as at hosted servers."""
    if isinstance(answer, dict):  # in the newer protocol, which a client of the app's own may speak
        answer = [piece for pair in answer.items() for piece in pair]
    if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], bytes):
        return answer[1].decode(errors="replace")
    return None


# --- sharing round trips ---------------------------------------------------------------------------------------------

_Item = TypeVar("_Item")


class _Waiter(Generic[_Item]):
    __slots__ = ("batch", "future", "item")

    def __init__(self, item: _Item, future: asyncio.Future[Any]) -> None:
        self.item = item
        self.future = future  # its result is the answer, or an exception as a value
        self.batch: _Batch | None = None  # None: not sent yet


class _Batch:
    __slots__ = ("left", "task")

    def __init__(self, left: int) -> None:
        self.left = left  # how many still wait for it
        self.task: asyncio.Task[None] | None = None


class _Lanes(Generic[_Item]):
    """Operations that share round trips.

    While a lane is free, an operation goes at once, in its caller's own task. Otherwise it waits until one is, and
    then goes together with all that wait by then.

    Args:
        exchange: sends a batch; returns an answer for each, an exception for those that were refused.
        lanes: how many batches may be under way at once.
    """

    def __init__(self, exchange: Callable[[list[_Item]], Awaitable[list[Any]]], lanes: int) -> None:
        self._exchange = exchange
        self._free = lanes
        self._waiting: deque[_Waiter[_Item]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: _Item) -> Any:
        """Return the answer. Raises StoreUnavailable."""
        answer = await self.get(item)
        if isinstance(answer, Exception):
            raise _unavailable(answer) from answer
        return answer

    async def get(self, item: _Item) -> Any:
        """Return the answer, or the exception that stands for it."""
        if not self._free or self._waiting:
            return await self._wait(item)
        self._free -= 1
        try:
            return (await self._exchange([item]))[0]
        except Exception as error:
            return error
        finally:
            self._release()

    async def _wait(self, item: _Item) -> Any:
        waiter = _Waiter(item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            batch = waiter.batch
            if batch is not None:
                batch.left -= 1
                if not batch.left and batch.task is not None:
                    batch.task.cancel()  # nobody waits any more: free its lane for those behind it
            raise

    def _release(self) -> None:
        self._free += 1
        while self._free and self._waiting:
            waiters = [waiter for waiter in self._take() if not waiter.future.done()]
            if waiters:
                self._send(waiters)

    def _take(self) -> list[_Waiter[_Item]]:
        return [self._waiting.popleft() for _ in range(min(_MOST_AT_ONCE, len(self._waiting)))]

    def _send(self, waiters: list[_Waiter[_Item]]) -> None:
        self._free -= 1
        batch = _Batch(len(waiters))
        for waiter in waiters:
            waiter.batch = batch
        task = batch.task = asyncio.get_running_loop().create_task(self._carry(waiters))
        self._tasks.add(task)
        task.add_done_callback(self._arrived)

    async def _carry(self, waiters: list[_Waiter[_Item]]) -> None:
        answers: list[Any]
        try:
            answers = await self._exchange([waiter.item for waiter in waiters])
        except asyncio.CancelledError:
            for waiter in waiters:
                waiter.future.cancel()
            raise
        except Exception as error:
            answers = [error] * len(waiters)
        for waiter, answer in zip(waiters, answers, strict=True):
            if not waiter.future.done():
                waiter.future.set_result(answer)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        # In a callback, not at the end of the task: a task that is cancelled before its first step never runs.
        self._tasks.discard(task)
        self._release()


class _Link:
    """One event loop's way to the server."""

    def __init__(self, connections: _Connections, epoch: bytes, lanes: int) -> None:
        self.loads: _Lanes[bytes] = _Lanes(self._fetch, lanes)
        self.writes: _Lanes[_Command] = _Lanes(self._do, lanes)
        self.closed = False
        self._connections = connections
        self._epoch = epoch
        self._ending: AsyncGenerator[None, None] | None = None

    def close_with_loop(self) -> None:
        """See to it that the connections go when the event loop does, for apps without a lifespan and for tests."""
        # An event loop that ends finishes the asynchronous generators that were begun in it, while it can still wait.
        self._ending = self._until_the_end()
        try:
            self._ending.__anext__().send(None)
        except StopIteration:
            pass

    async def close(self) -> None:
        self.closed = True
        if self._ending is not None:
            await self._ending.aclose()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.closed = True
            await self._connections.close()

    async def _fetch(self, keys: list[bytes]) -> list[Any]:
        command = _pack((b"MGET", *keys, self._epoch))
        (answer,) = await self._exchange([command])
        if _is(answer, *_BROKEN) and not _is(answer, "AuthenticationError", "BusyLoadingError"):
            (answer,) = await self._exchange([command])  # reading twice harms nobody
        if isinstance(answer, Exception):
            return [answer] * len(keys)
        epoch = answer.pop()
        return [(value, epoch) for value in answer]

    async def _do(self, commands: list[_Command]) -> list[Any]:
        answers = await self._exchange([command.packed() for command in commands])
        # The server knows scripts by name until it restarts; one that it does not know was not run.
        unknown = [at for at, answer in enumerate(answers) if _is(answer, "NoScriptError")]
        return await self._again(answers, unknown, lambda at: commands[at].packed(with_source=True))

    async def _exchange(self, commands: list[bytes]) -> list[Any]:
        """Send commands that the server answers in order.

        Returns:
            Of each the answer, or the exception that stands for a refusal or a lost answer.

        Raises:
            _NotSent: no connection could be had.
        """
        answers = await self._once(commands)
        for _ in range(_REDIRECTIONS):
            astray = [at for at, answer in enumerate(answers) if _is(answer, "MovedError")]
            if not astray or not await self._connections.follow():
                break
            answers = await self._again(answers, astray, commands.__getitem__)
        return answers

    async def _again(self, answers: list[Any], which: list[int], command: Callable[[int], bytes]) -> list[Any]:
        """Send once more those that were not run; the other answers stand, whatever happens to these."""
        if which:
            again: list[Any]
            try:
                again = await self._once([command(at) for at in which])
            except _NotSent as error:
                again = [error] * len(which)
            for at, answer in zip(which, again, strict=True):
                answers[at] = answer
        return answers

    async def _once(self, commands: list[bytes]) -> list[Any]:
        connection = await self._connections.take()
        answers: list[Any] = []
        failed = True
        try:
            # Cancelled or broken in here, the driver closes the connection: no answer can meet the wrong question.
            await connection.send_packed_command(b"".join(commands), check_health=False)
            for _ in commands:
                try:
                    answers.append(await connection.read_response(disable_decoding=True))
                except Exception as error:
                    if not _is(error, "ResponseError"):
                        raise
                    answers.append(error)
            failed = any(_is(answer, "ReadOnlyError", "ClusterDownError") for answer in answers)
        except Exception as error:
            answers += [error] * (len(commands) - len(answers))
        finally:
            await self._connections.give_back(connection, failed=failed)
        return answers


# --- connections -----------------------------------------------------------------------------------------------------


class _Connection(Protocol):
    """What is used of a connection of redis-py or valkey-py."""

    @property
    def is_connected(self) -> bool: ...
    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None: ...
    async def read_response(self, disable_decoding: bool = False) -> Any: ...


class _Connections(Protocol):
    """Where connections come from."""

    async def take(self) -> _Connection:
        """Return a connection that is alive. Raises _NotSent."""
        ...

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
        """Take a connection back. `failed`: it may lead to the wrong server."""
        ...

    async def follow(self) -> bool:
        """Find out where the slot of the keys is now; return whether there is such a thing."""
        ...

    async def close(self) -> None: ...


class _NotSent(Exception):
    """No connection could be had; the reason is the cause."""


async def _revive(connection: _Connection) -> None:
    """Connect where that is needed. Raises _NotSent."""
    try:
        if connection.is_connected and _is_dead(connection):
            await connection.disconnect(nowait=True)
        if not connection.is_connected:
            await connection.connect()
    except BaseException as error:
        await connection.disconnect(nowait=True)  # it may have stopped half-way, before it had logged in
        if isinstance(error, Exception):
            raise _NotSent from error
        raise


def _is_dead(connection: Any) -> bool:
    """Whether the server has closed an idle connection, also when the event loop has not noticed yet."""
    reader, writer = connection._reader, connection._writer
    if reader.at_eof() or reader.exception() is not None or writer.is_closing():
        return True
    if _poll is None:
        return False
    poll = _poll()
    poll.register(writer.get_extra_info("socket").fileno(), _HUNG_UP)
    return bool(poll.poll(0))


_poll = getattr(select, "poll", None)  # not on Windows
_HUNG_UP = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere POLLHUP, which is always asked for, has to do


class _Own:
    """Connections that only this store uses; no more than there are lanes.

    Without the driver's pool: it takes 10 µs a round trip, and giving back to it can be cancelled.
    """

    def __init__(self, make: Callable[[], Any], close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._closed = False
        self._close_more = close

    async def take(self) -> _Connection:
        if self._closed:
            raise _NotSent
        connection: _Connection = self._idle.pop() if self._idle else self._make()
        self._all.add(connection)
        try:
            await _revive(connection)
        except BaseException:
            self._idle.append(connection)
            raise
        return connection

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
        self._idle.append(connection)
        if failed or self._closed:
            await connection.disconnect(nowait=True)

    async def follow(self) -> bool:
        return False

    async def close(self) -> None:
        self._closed = True
        connections, self._all, self._idle = self._all, set(), []
        await asyncio.gather(*(_part(connection.disconnect()) for connection in connections))
        if self._close_more is not None:
            await _part(self._close_more())


class _Borrowed:
    """Connections of the app's own client: each goes back after its round trip."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        # valkey-py wants the name of a command, which it ignores; redis-py warns about one.
        name = inspect.signature(pool.get_connection).parameters.get("command_name")
        self._args = ("MGET",) if name is not None and name.default is name.empty else ()

    async def take(self) -> _Connection:
        try:
            connection: _Connection = await self._pool.get_connection(*self._args)
        except Exception as error:
            raise _NotSent from error
        try:
            await _revive(connection)
        except BaseException:
            await self._pool.release(connection)
            raise
        return connection

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
        try:
            if failed:
                await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)

    async def follow(self) -> bool:
        return False

    async def close(self) -> None:
        pass


class _Clustered:
    """Connections to the node of a cluster that has our slot.

    Finding that node is left to the driver, whose own command does it when a connection failed or a node refused.
    """

    def __init__(self, client: Any, key: bytes, make: Callable[[], Any] | None = None) -> None:
        self._client = client
        self._key = key.decode()
        self._make = make  # None: it is the app's own client, which is not ours to replace or to close
        self._lost = False  # whether the node is to be found anew
        self._nodes: dict[int, Any] = {}  # of connections that are taken, by their id

    async def take(self) -> _Connection:
        client = self._client
        try:
            await client.initialize()
            if self._lost:
                await client.execute_command("EXISTS", self._key)
                self._lost = False
            node = client.get_node_from_key(self._key)
            connection: _Connection = node.acquire_connection()
        except Exception as error:
            await self._replace(client)
            raise _NotSent from error
        try:
            await _revive(connection)
        except BaseException:
            self._lost = True
            node.release(connection)
            raise
        self._nodes[id(connection)] = node
        return connection

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
        node = self._nodes.pop(id(connection))
        self._lost = self._lost or failed
        try:
            if failed:
                await connection.disconnect(nowait=True)
        finally:
            node.release(connection)

    async def follow(self) -> bool:
        self._lost = True
        return True

    async def close(self) -> None:
        if self._make is not None:
            await _part(self._client.aclose())

    async def _replace(self, client: Any) -> None:
        """Begin anew from the URL: a client that found no node may have forgotten all it knew (redis-py 6.4)."""
        if self._make is not None and self._client is client:  # or another batch has done it
            self._client = self._make()
            await _part(client.aclose())


async def _part(closing: Awaitable[None]) -> None:
    """Close something, within reason."""
    try:
        async with asyncio.timeout(_PATIENCE_CLOSING):
            await closing
    except Exception as error:
        _log.debug("closing a connection of the session store: %s", type(error).__name__)


# --- from a URL or a client to connections ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    """Which server, and how connections to it are made."""

    shown: str  # for people: never with a password
    clustered: bool
    connect: Callable[[bytes], _Connections]  # called in each event loop, with the epoch's key


def _target_of(server: Any) -> _Target:
    return _by_url(server) if isinstance(server, str) else _by_client(server)


_TAKES = (
    "it takes redis://, rediss://, unix://, valkey://, valkeys://, redis+cluster:// or redis+sentinel://, "
    "or a client of redis.asyncio"
)


def _by_client(client: Any) -> _Target:
    execute = getattr(client, "execute_command", None)
    if isinstance(client, type) or not inspect.iscoroutinefunction(execute):
        raise ConfigurationError(f"store: got {type(client).__name__}; {_TAKES}")
    loops: list[asyncio.AbstractEventLoop] = []  # the one that the client belongs to, once that is known

    def in_its_loop(connections: _Connections) -> _Connections:
        loop = asyncio.get_running_loop()
        if loops and loops[0] is not loop:
            raise ConfigurationError(
                "store: the client given to RedisStore was first used in another event loop, where its connections "
                "are; give a URL, and each loop gets connections of its own"
            )
        loops[:] = [loop]
        return connections

    if hasattr(client, "nodes_manager"):
        if getattr(client, "read_from_replicas", False) or getattr(client, "load_balancing_strategy", None):
            raise ConfigurationError(
                "store: the client reads from replicas, which lag behind: a session that was ended would still be "
                "there; give a client without read_from_replicas and load_balancing_strategy"
            )
        return _Target(f"({type(client).__name__})", True, lambda key: in_its_loop(_Clustered(client, key)))
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        raise ConfigurationError(f"store: got {type(client).__name__}; {_TAKES}")
    return _Target(f"({type(client).__name__})", False, lambda key: in_its_loop(_Borrowed(pool)))


@dataclass(frozen=True, slots=True)
class _Address:
    """A URL taken apart."""

    kind: str  # "server", "unix", "cluster" or "sentinel"
    tls: bool
    hosts: list[tuple[str, int]]
    path: list[str]  # what is between the slashes
    options: dict[str, Any] = field(repr=False)  # for the driver's connections; the password is in it


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
        raise ConfigurationError("store: Redis needs a driver: pip install 'roomkey[redis]'")
    scheme = url.partition("://")[0]
    hosts = ",".join(f"{host}:{port}" for host, port in address.hosts)
    shown = f"{scheme}://{hosts}{'/' if address.path else ''}{'/'.join(address.path)}"
    if address.kind == "cluster":
        return _Target(shown, True, lambda key: _own_cluster(address, key))
    if address.kind == "sentinel":
        return _Target(shown, False, lambda key: _own_behind_sentinels(address))
    return _Target(shown, False, lambda key: _own_server(address))


def _parse(url: str) -> _Address:
    """Take a URL apart.

    Raises:
        ConfigurationError: it is not right. Nothing of it is shown but the scheme and the names of options.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise ConfigurationError(f"store: not a URL of Redis or Valkey; {_TAKES}")
    kind, tls = _SCHEMES[scheme]
    try:
        parts = urlsplit(f"//{rest}")
        user, _, hosts = parts.netloc.rpartition("@")
        addresses = [] if kind == "unix" else [_host(one, kind) for one in hosts.split(",")]
    except ValueError:  # its text would show the URL
        raise ConfigurationError(
            f"store: the {scheme} URL names no host and port; in a user name or password, write / ? # @ : and % as "
            "%2F %3F %23 %40 %3A and %25"
        ) from None
    if parts.fragment or (kind == "server" and len(addresses) != 1) or (kind == "unix" and parts.path in ("", "/")):
        raise ConfigurationError(f"store: the {scheme} URL is not complete, or has a part too many; {_TAKES}")
    options = _options(scheme, parts.query, _known(kind))
    name, _, password = user.partition(":")
    if name:
        options["username"] = unquote(name)
    if password:
        options["password"] = unquote(password)
    if kind == "unix":
        options["path"] = unquote(parts.path)
        return _Address(kind, tls, [], [options["path"].lstrip("/")], options)
    path = [unquote(piece) for piece in parts.path.split("/") if piece]
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


def _own_server(address: _Address) -> _Connections:
    from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

    options = _connection_options(address)
    if address.kind == "unix":
        kind: Any = UnixDomainSocketConnection
    else:
        kind = SSLConnection if address.tls else Connection
        options["host"], options["port"] = address.hosts[0]
    return _Own(lambda: kind(**options))


def _own_behind_sentinels(address: _Address) -> _Connections:
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    # Half a second for each: a sentinel that is down must not use up the time in which the next one would answer.
    asking: dict[str, Any] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": Retry(NoBackoff(), 0)}
    for name in _SENTINEL_OPTIONS:
        if name in address.options:
            asking[name.removeprefix("sentinel_")] = address.options[name]
    sentinel = Sentinel(address.hosts, sentinel_kwargs=asking, **_connection_options(address))  # type: ignore[no-untyped-call]
    client: Any = sentinel.master_for(address.path[0], ssl=address.tls)

    async def close() -> None:
        for one in sentinel.sentinels:
            await one.aclose()

    # The pool stays with its method: connections know their pool by a weak reference only.
    return _Own(client.connection_pool.make_connection, close)


def _own_cluster(address: _Address, key: bytes) -> _Connections:
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import ConstantBackoff

    # These retries are for finding the node that has our slot; what sessions need is never sent by this client.
    options = {**_connection_options(address), "retry": Retry(ConstantBackoff(0.05), 3)}

    def make() -> Any:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(startup_nodes=nodes, ssl=address.tls, **options)

    return _Clustered(make(), key, make)


# --- errors ----------------------------------------------------------------------------------------------------------

_FOREIGN = "a key holds something that is not a session; it was left alone (do two apps share a prefix?)"
_READ_ONLY = "the Redis server is a read-only replica: put the primary's address into the URL"
_FORBIDDEN = (
    "the Redis user may not do what sessions need: give it GET, MGET, SET, SETRANGE, DEL, EXISTS, PEXPIREAT, ZADD, "
    "ZREM, ZRANGE, ZREMRANGEBYSCORE, EVAL and EVALSHA on the keys that begin with the prefix"
)
_UNREACHABLE = "the Redis server cannot be reached"
# How a broken connection shows: uvloop says RuntimeError where a transport is closed.
_BROKEN = ("ConnectionError", "RuntimeError")
_BY_NAME = {  # class names: redis-py and valkey-py each have classes of their own
    "AuthenticationError": "the Redis server refuses the user name or password: correct them in the URL",
    "NoPermissionError": _FORBIDDEN,
    "BusyLoadingError": "the Redis server is loading its data after a start",
    "OutOfMemoryError": "the Redis server's memory is full (maxmemory): give it more",
    "ReadOnlyError": _READ_ONLY,
    "MovedError": "the Redis server is part of a cluster: write redis+cluster:// in the URL",
    "AskError": "the Redis cluster is moving the sessions' slot to another node",
    "TryAgainError": "the Redis cluster is moving the sessions' slot to another node",
    "ClusterDownError": "the Redis cluster is down, or no node has the sessions' slot",
    "SlotNotCoveredError": "the Redis cluster is down, or no node has the sessions' slot",
    "RedisClusterException": "the Redis cluster cannot be reached",
    "MasterNotFoundError": "the sentinels know no primary of that name, or cannot be reached",
    "MaxConnectionsError": "the client's connections are all in use: give it more, or give the store a URL",
    "TimeoutError": "the Redis server did not answer in time",
}
_BY_WORD = {  # where the server says it inside a script's error
    "OOM": _BY_NAME["OutOfMemoryError"],
    "READONLY": _READ_ONLY,
    "WRONGTYPE": _FOREIGN,
    "MISCONF": "the Redis server cannot write to its disk and takes no changes (MISCONF): see its log",
    "NOREPLICAS": "the Redis server has fewer replicas than min-replicas-to-write asks for",
    "BUSY": "the Redis server is busy with another script",
    "NOPERM": _FORBIDDEN,
    "The user executing the script": _FORBIDDEN,
    "max number of clients": "the Redis server takes no more connections (maxclients)",
}


def _is(answer: object, *names: str) -> bool:
    """Whether `answer` is an exception of one of these classes, whichever driver's."""
    return isinstance(answer, Exception) and any(kind.__name__ in names for kind in type(answer).__mro__)


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, _NotSent) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _words(error: BaseException) -> str:
    """Say what happened without the driver's words: they may hold keys or data."""
    error = _cause(error)
    text = str(error)
    for kind in type(error).__mro__:
        if kind.__name__ in _BY_NAME:
            return _BY_NAME[kind.__name__]
    for word, words in _BY_WORD.items():
        if re.search(rf"\b{word}\b", text):
            return words
    if _distrusts(error):
        return "the Redis server's certificate is not trusted: name its authority's file with ?ssl_ca_certs= in the URL"
    if not _is(error, "ResponseError"):
        return _UNREACHABLE
    code = re.match(r"[A-Z]{2,20}\b", text)
    return f"the Redis server refused ({code[0] if code else type(error).__name__})"


def _is_permanent(error: Exception) -> bool:
    """Whether nothing but another configuration helps."""
    cause = _cause(error)
    return _is(cause, "AuthenticationError", "MovedError") or _distrusts(cause) or _words(cause) == _FORBIDDEN


def _distrusts(error: BaseException | None) -> bool:
    """Whether a certificate is the reason."""
    while error is not None:
        if _is(error, "SSLCertVerificationError"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unavailable(error: Exception) -> StoreUnavailable:
    """Return an exception for one of those who wait: a shared one would collect the tracebacks of all."""
    return StoreUnavailable(_words(error))
