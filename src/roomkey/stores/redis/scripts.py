"""The Lua scripts: each write is one, and so one atomic step. Leaves to others when they run.

`apart_scripts` has those for a cluster whose sessions are spread over it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

__all__ = [
    "IS_AT_VERSION",
    "READING",
    "USUAL_UPDATE",
    "Command",
    "Script",
    "create_script",
    "delete_script",
    "list_script",
    "pack",
    "rotate_script",
    "touch_script",
    "update_script",
]

# KEYS[1] is the record and KEYS[2] the epoch; ARGV[1] is the time. The answers are 1: done, 0: not done because of what
# is there, -1: there is something else under the key. A script that fails has changed nothing: what may fail (a key of
# another type, no memory) comes before the first change, or the change is undone.
#
# A script has two parts. The first one has the usual case, written out, and takes what can be worked out beforehand as
# arguments: the definitions of the second part alone cost more than the commands of the first. The first part changes
# nothing unless it is the usual case.


def _list_usual(*, added: str, index: str, lives: str, expires: str, member: str) -> str:
    """Return what lists a session that was just put under the key `added`.

    An index is kept as long as the longest session that was in it. Expired members are removed when it is read, and by
    one session in sixteen that are added: a user who only logs in must not fill it for ever.
    """
    return f"""
    local listed = redis.pcall('ZADD', {index}, {expires}, {member})
    if type(listed) == 'table' then
      redis.call('DEL', {added})
      return listed
    end
    if redis.call('PTTL', {index}) < tonumber({lives}) then redis.call('PEXPIRE', {index}, {lives}) end
    if string.byte({member}, -1) == 48 then redis.call('ZREMRANGEBYSCORE', {index}, '-inf', ARGV[1] - 60) end
"""


READING = """
local now = tonumber(ARGV[1])
local epoch = redis.call('GET', KEYS[2])

local function read(key)
  local value = redis.call('GET', key)
  if not value then return nil, false end
  if #value < 69 or string.sub(value, 17, 20) ~= 'RKR1' then return nil, true end
  if string.sub(value, 1, 16) ~= epoch or struct.unpack('>d', value, 38) <= now then return nil, false end
  return value, false
end

local function expiry(body) return (struct.unpack('>d', body, 22)) end

local function owner(body)
  local size = struct.unpack('>I4', body, 38)
  if size == 4294967295 then return nil end
  return string.sub(body, 54, 53 + size)
end

-- Not the moment: the server's clock may go differently from ours.
local function forget_in(moment)
  return string.format('%.0f', math.ceil((math.min(moment - now, 253402300800) + 60) * 1000))
end

local function put(key, body)
  redis.call('SET', key, epoch .. body, 'PX', forget_in(expiry(body)))
end
"""

# The list of a user's sessions is worked out from the record, and so is not among the declared keys.
_PRELUDE = (
    READING
    + """
local prefix = string.sub(KEYS[2], 1, -6)

local function member(key) return string.sub(key, #prefix + 3) end

local function unlist(user, key)
  redis.call('ZREM', prefix .. 'u:' .. user, member(key))
end

local function list(user, key, expires)
  local index = prefix .. 'u:' .. user
  redis.call('ZADD', index, expires, member(key))
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now - 60)
  local lives = forget_in(expires)
  if redis.call('PTTL', index) < tonumber(lives) then redis.call('PEXPIRE', index, lives) end
end
"""
)

# A new session. ARGV: time, record, a generation, how long it lives (empty: it has expired already), and for the index
# KEYS[3] its expiry and its name there.
_USUAL_CREATE = f"""
local epoch = redis.call('GET', KEYS[2])
if epoch and #epoch == 16 and ARGV[4] ~= '' and redis.call('SET', KEYS[1], epoch .. ARGV[2], 'PX', ARGV[4], 'NX') then
  if KEYS[3] then
    {_list_usual(added="KEYS[1]", index="KEYS[3]", lives="ARGV[4]", expires="ARGV[5]", member="ARGV[6]")}
  end
  return 1
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

IS_AT_VERSION = """
local old, foreign = read(KEYS[1])
if foreign then return -1 end
if not old or string.sub(old, 17, 29) ~= ARGV[2] then return 0 end
local before = string.sub(old, 17)
local was = owner(before)
"""

# An update that changes neither user nor expiry: the index and the time to live stay as they are. ARGV: time, the marks
# of the version that is expected, record.
USUAL_UPDATE = """
local found = redis.call('MGET', KEYS[1], KEYS[2])
local old, body = found[1], ARGV[3]
if old and #old >= 69 and string.sub(old, 1, 16) == found[2] and string.sub(old, 17, 29) == ARGV[2]
    and string.sub(old, 38, 45) == string.sub(body, 22, 29) and string.sub(old, 54, 57) == string.sub(body, 38, 41)
    and struct.unpack('>d', old, 38) > tonumber(ARGV[1]) then
  local size = struct.unpack('>I4', old, 54)
  if size == 4294967295 or string.sub(old, 70, 69 + size) == string.sub(body, 54, 53 + size) then
    redis.call('SET', KEYS[1], found[2] .. body, 'KEEPTTL')
    return 1
  end
end
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

# A rotation of a user's session, or one that is a log-in. ARGV: time, the marks of the version that is expected, the
# record, the tombstone, how long each of the two lives (empty: it has expired already), and for the index KEYS[4] the
# record's expiry, its new and its old name there.
_USUAL_ROTATE = f"""
local found = redis.call('MGET', KEYS[1], KEYS[2])
local old, epoch, body = found[1], found[2], ARGV[3]
if old and #old >= 69 and string.sub(old, 1, 16) == epoch and string.sub(old, 17, 29) == ARGV[2]
    and struct.unpack('>d', old, 38) > tonumber(ARGV[1]) and ARGV[5] ~= '' and ARGV[6] ~= '' then
  local size = struct.unpack('>I4', old, 54)
  local was_listed = size ~= 4294967295
  if (not was_listed or (string.sub(old, 54, 57) == string.sub(body, 38, 41)
      and string.sub(old, 70, 69 + size) == string.sub(body, 54, 53 + size)))
      and redis.call('SET', KEYS[3], epoch .. body, 'PX', ARGV[5], 'NX') then
    if KEYS[4] then
      {_list_usual(added="KEYS[3]", index="KEYS[4]", lives="ARGV[5]", expires="ARGV[7]", member="ARGV[8]")}
      if was_listed then redis.call('ZREM', KEYS[4], ARGV[9]) end
    end
    redis.call('SET', KEYS[1], epoch .. ARGV[4], 'PX', ARGV[6])
    return 1
  end
end
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
  redis.call('PEXPIRE', KEYS[1], forget_in(expires))
end
return 1
"""

_DELETE = """
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' and #value >= 69 and string.sub(value, 17, 20) == 'RKR1' then
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


# A message that cannot be sent, for want of a right, undoes nothing.
_TELLING = """
local function work()
%s
end
local answer = work()
if answer == 1 or type(answer) == 'table' then redis.pcall('PUBLISH', ARGV[#ARGV - 1], ARGV[#ARGV]) end
return answer
"""


class Script:
    """A Lua script, and how it is called by the name that the server knows it by once it has seen it."""

    def __init__(self, source: str) -> None:
        self.source: bytes = source.encode()
        self.sha: bytes = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()
        self._source = source
        self.call: bytes = b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n" + self.sha + b"\r\n$1\r\n%d\r\n"  # up to the arguments

    @cached_property
    def telling(self) -> Script:
        """The same, and where it has done something, it tells. Two more arguments: the channel and the message."""
        return Script(_TELLING % self._source)


create_script: Script = Script(_USUAL_CREATE + _PRELUDE + _CREATE)
update_script: Script = Script(USUAL_UPDATE + _PRELUDE + IS_AT_VERSION + _UPDATE)
rotate_script: Script = Script(_USUAL_ROTATE + _PRELUDE + IS_AT_VERSION + _ROTATE)
touch_script: Script = Script(_PRELUDE + _TOUCH)
delete_script: Script = Script(_PRELUDE + _DELETE)
list_script: Script = Script(_LIST)


class Command(NamedTuple):
    """What is sent to the server: a command, or a call of a script."""

    args: tuple[bytes, ...]
    script: Script | None = None  # None: `args` is all of it
    keys: int = 0  # how many of a script's arguments are keys

    def packed(self, *, with_source: bool = False) -> bytes:
        if self.script is None:
            return pack(self.args)
        if with_source:
            return pack((b"EVAL", self.script.source, b"%d" % self.keys, *self.args))
        return self.script.call % (3 + len(self.args), self.keys) + _pack_all(self.args)


def pack(args: Sequence[bytes]) -> bytes:
    """Return a command in the server's protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    return b"*%d\r\n" % len(args) + _pack_all(args)


def _pack_all(args: Sequence[bytes]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])
