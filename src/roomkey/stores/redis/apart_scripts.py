"""The Lua scripts for sessions that are spread over a cluster: the list of a user's sessions is in another slot.

Each script has one slot, and all of its keys are declared. `apart` says in which order they run.
"""

from __future__ import annotations

from roomkey.stores.redis.scripts import IS_AT_VERSION, READING, USUAL_UPDATE, Script

__all__ = [
    "LIST_FIRST",
    "create_script",
    "delete_script",
    "enter_script",
    "leave_script",
    "rotate_script",
    "touch_script",
    "update_script",
]

# KEYS[1] is the record and KEYS[2] its epoch; ARGV[1] is the time. The answers are those of `scripts`, and these:
LIST_FIRST = 2  # not done: the list of the record's user has to say first that it lives so long
# A script that has ended a user's session, or moved it, answers with three values: 1, the user, and until when it would
# have lived. The user's list may leave it out now.

_ENDED = """
local function ended(body)
  local user = owner(body)
  if not user then return 1 end
  return {1, user, string.format('%.17g', expiry(body))}
end
"""

# ARGV: time, record, a generation, how long it lives (empty: it has expired already).
_CREATE = """
local epoch = redis.call('GET', KEYS[2])
if epoch and #epoch == 16 and ARGV[4] ~= '' and redis.call('SET', KEYS[1], epoch .. ARGV[2], 'PX', ARGV[4], 'NX') then
  return 1
end
"""

_CREATE_ANY = """
local old, foreign = read(KEYS[1])
if foreign or (epoch and #epoch ~= 16) then return -1 end
if old then return 0 end
if not epoch then
  epoch = ARGV[3]
  redis.call('SET', KEYS[2], epoch)
end
if expiry(ARGV[2]) <= now then redis.call('DEL', KEYS[1]) else put(KEYS[1], ARGV[2]) end
return 1
"""

# ARGV: time, the marks of the version that is expected, record, whether its user's list knows of it.
_UPDATE = """
local body = ARGV[3]
local expires, user = expiry(body), owner(body)
if expires <= now then
  redis.call('DEL', KEYS[1])
  return ended(before)
end
if user and ARGV[4] == '' and (user ~= was or expires > expiry(before)) then return 2 end
put(KEYS[1], body)
return 1
"""

# KEYS[3] is the record under the new ID. ARGV: time, the marks of the version that is expected, the record, the
# tombstone.
_ROTATE = """
local taken, foreign_too = read(KEYS[3])
if foreign_too then return -1 end
if taken then return 0 end
local body, tombstone = ARGV[3], ARGV[4]
if expiry(body) > now then put(KEYS[3], body) else redis.call('DEL', KEYS[3]) end
if expiry(tombstone) > now then put(KEYS[1], tombstone) else redis.call('DEL', KEYS[1]) end
return ended(before)
"""

# ARGV: time, until when it is to live, the user whose list knows of it, behind a plus; empty: none does. Where another
# one has to, the second value is the user.
_TOUCH = """
local old, foreign = read(KEYS[1])
if foreign then return -1 end
if not old or string.sub(old, 21, 21) == 'T' then return 0 end
local before = string.sub(old, 17)
local expires, user = struct.unpack('>d', ARGV[2]), owner(before)
if expires > expiry(before) then
  if user and ARGV[3] ~= '+' .. user then return {2, user} end
  redis.call('SETRANGE', KEYS[1], 37, ARGV[2])
  redis.call('PEXPIRE', KEYS[1], forget_in(expires))
end
return 1
"""

_DELETE = """
local value = redis.pcall('GET', KEYS[1])
redis.call('DEL', KEYS[1])
if type(value) == 'string' and #value >= 69 and string.sub(value, 17, 20) == 'RKR1' then
  return ended(string.sub(value, 17))
end
return 1
"""

# KEYS[1] is the list. ARGV: time, the session's key, until when it is to live, and how long that is in milliseconds.
_ENTER = """
redis.call('ZADD', KEYS[1], 'GT', ARGV[3], ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
if string.byte(ARGV[2], -1) == 48 then redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] - 60) end
return 1
"""

# ARGV: the key of a session that has ended, and until when it would have lived. An entry that says more is of another
# session, which has the same key.
_LEAVE = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) <= tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1
"""

_ANY = READING + _ENDED
create_script: Script = Script(_CREATE + READING + _CREATE_ANY)
update_script: Script = Script(USUAL_UPDATE + _ANY + IS_AT_VERSION + _UPDATE)
rotate_script: Script = Script(_ANY + IS_AT_VERSION + _ROTATE)
touch_script: Script = Script(READING + _TOUCH)
delete_script: Script = Script(_ANY + _DELETE)
enter_script: Script = Script(_ENTER)
leave_script: Script = Script(_LEAVE)
