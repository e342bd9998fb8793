"""The Lua that the prefix index runs inside Redis: one script is one round trip, however many blocks it touches.

Owns the layout of the stored values; `prefix_index` owns the keys. Times are Redis's own clock
in microseconds, so that orchestrators need not agree on theirs. Runs on Redis 5 and later.

- a block: hash of "kind:replica_id" -> time of last use
- `dropped`: hash of "kind:replica_id" -> time it was dropped. What a replica held at that time is gone.
- a sequence: hash of kind -> "time num_processed replica_id"
- a token log: hash of "fingerprint" -> bytes, and position of the first token -> packed batch
"""

from __future__ import annotations

_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local stamp = string.format('%.0f', now)
"""

LOOKUP = (
    _NOW
    + """
-- KEYS: dropped, block ...   ARGV: TTL in microseconds
-- Returns replica, number of leading blocks, replica, ...
local dropped = {}
local tombstones = redis.call('HGETALL', KEYS[1])
for i = 1, #tombstones, 2 do
  dropped[tombstones[i]] = tonumber(tombstones[i + 1])
end
local held = {}
for i = 2, #KEYS do
  local extended = false
  local entries = redis.call('HGETALL', KEYS[i])
  for j = 1, #entries, 2 do
    local replica, last_use = entries[j], tonumber(entries[j + 1])
    if last_use <= math.max(now - ARGV[1], dropped[replica] or 0) then
      redis.call('HDEL', KEYS[i], replica)
    elseif (held[replica] or 0) == i - 2 then
      held[replica] = i - 1
      extended = true
    end
  end
  if not extended then break end
end
local reply = {}
for replica, num_blocks in pairs(held) do
  reply[#reply + 1] = replica
  reply[#reply + 1] = num_blocks
end
return reply
"""
)

RECORD = (
    _NOW
    + """
-- KEYS: sequence, block ...   ARGV: kind, replica_id, num_processed, TTL in seconds
for i = 2, #KEYS do
  redis.call('HSET', KEYS[i], ARGV[1] .. ':' .. ARGV[2], stamp)
  redis.call('EXPIRE', KEYS[i], ARGV[4])
end
redis.call('HSET', KEYS[1], ARGV[1], stamp .. ' ' .. ARGV[3] .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
"""
)

LOCATE = """
-- KEYS: sequence, dropped
-- Returns kind, replica_id, num_processed, kind, ...
local reply = {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local last_use, num_processed, replica_id = string.match(entries[i + 1], '^(%d+) (%d+) (.*)$')
  local dropped = redis.call('HGET', KEYS[2], entries[i] .. ':' .. replica_id)
  if not dropped or tonumber(last_use) > tonumber(dropped) then
    reply[#reply + 1] = entries[i]
    reply[#reply + 1] = replica_id
    reply[#reply + 1] = tonumber(num_processed)
  end
end
return reply
"""

DROP_REPLICA = (
    _NOW
    + """
-- KEYS: dropped   ARGV: "kind:replica_id", TTL in seconds
-- A tombstone older than the TTL is of no use: the entries that it is for have expired.
local tombstones = redis.call('HGETALL', KEYS[1])
for i = 1, #tombstones, 2 do
  if tonumber(tombstones[i + 1]) < now - ARGV[2] * 1000000 then
    redis.call('HDEL', KEYS[1], tombstones[i])
  end
end
redis.call('HSET', KEYS[1], ARGV[1], stamp)
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
)

APPEND_LOG = """
-- KEYS: log   ARGV: fingerprint, position, packed batch, TTL in seconds
-- A request that begins anew begins its log anew: two lives of it may differ where a float's last bits decide.
if ARGV[2] == '0' or redis.call('HGET', KEYS[1], 'fingerprint') ~= ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1])
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
"""
