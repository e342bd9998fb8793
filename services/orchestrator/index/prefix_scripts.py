"""The Lua that the prefix index runs inside Redis: one script is one round trip, however many blocks it touches.

Owns the layout of the stored values; `prefix_index` owns the keys. Times are Redis's own clock
in microseconds, so that orchestrators need not agree on theirs. Runs on Redis 5 and later.

- a block: hash of "kind:replica_id" -> time of last use
- `dropped`: hash of "kind:replica_id" -> time it was dropped. What a replica held at that time is gone.
- a token log: string, see `token_log`

What else is found in these places is damage. Scripts don't fail on it, and take it away where they meet it.
"""

from __future__ import annotations

_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local stamp = string.format('%.0f', now)
"""

# A time further in the future than a clock may have been set back is none. Written so that NaN fails it.
_READ_TIMES = """
local num_damaged = 0
local function read_times(key)
  local times = {}
  local entries = redis.pcall('HGETALL', key)
  if entries.err then
    redis.call('DEL', key)
    num_damaged = num_damaged + 1
    return times
  end
  for i = 1, #entries, 2 do
    local time = tonumber(entries[i + 1])
    if string.find(entries[i], '^[sl]lm:.') and time and time >= 0 and time < now + 60000000 then
      times[entries[i]] = time
    else
      redis.call('HDEL', key, entries[i])
      num_damaged = num_damaged + 1
    end
  end
  return times
end
"""

_WRITE_TIME = """
local function write_time(key, field)
  if type(redis.pcall('HSET', key, field, stamp)) == 'table' then
    redis.call('DEL', key)
    redis.call('HSET', key, field, stamp)
  end
end
"""

LOOKUP = (
    _NOW
    + _READ_TIMES
    + """
-- KEYS: dropped, block ...   ARGV: TTL in microseconds
-- Returns number of damaged places, replica, number of leading blocks, replica, ...
local dropped = read_times(KEYS[1])
local held = {}
for i = 2, #KEYS do
  local extended = false
  for replica, last_use in pairs(read_times(KEYS[i])) do
    if last_use <= math.max(now - ARGV[1], dropped[replica] or 0) then
      redis.call('HDEL', KEYS[i], replica)
    elseif (held[replica] or 0) == i - 2 then
      held[replica] = i - 1
      extended = true
    end
  end
  if not extended then break end
end
local reply = {num_damaged}
for replica, num_blocks in pairs(held) do
  reply[#reply + 1] = replica
  reply[#reply + 1] = num_blocks
end
return reply
"""
)

RECORD = (
    _NOW
    + _WRITE_TIME
    + """
-- KEYS: block ...   ARGV: "kind:replica_id", TTL in seconds
for i = 1, #KEYS do
  write_time(KEYS[i], ARGV[1])
  redis.call('EXPIRE', KEYS[i], ARGV[2])
end
return 1
"""
)

DROP_REPLICA = (
    _NOW
    + _READ_TIMES
    + _WRITE_TIME
    + """
-- KEYS: dropped   ARGV: "kind:replica_id", TTL in seconds
-- A tombstone older than the TTL is of no use: the entries that it is for have expired.
for replica, time in pairs(read_times(KEYS[1])) do
  if time < now - ARGV[2] * 1000000 then
    redis.call('HDEL', KEYS[1], replica)
  end
end
write_time(KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

APPEND_LOG = """
-- KEYS: log   ARGV: header, bytes of records before the batch, the last bytes of these, records, TTL in seconds
-- Returns 1 if the log holds the batch and all before it, 0 if it has to be written from the start.
-- A request that begins anew begins its log anew: two lives of it may differ where a float's last bits decide.
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[4], 'EX', ARGV[5])
  return 1
end
local offset = #ARGV[1] + ARGV[2]
if redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1]
    or redis.pcall('GETRANGE', KEYS[1], offset - #ARGV[3], offset - 1) ~= ARGV[3] then
  return 0
end
redis.call('SETRANGE', KEYS[1], offset, ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""
