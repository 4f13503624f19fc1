-- SPDX-License-Identifier: MIT
-- Shared by the scripts beside it, which are loaded with this text before their own. A room is a
-- hash at KEYS[1] {epoch, seq, life (its incarnation)} and a stream at KEYS[2] whose entry ids are
-- <epoch>-<seq>.
--
-- `incarnation` names a time in which Redis cannot have lost the tail of its acknowledged writes.
-- Under "appendfsync always" the incarnation never changes, else it changes when Redis restarts. A
-- room from another incarnation begins a new epoch, so that no epoch has a seq twice.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function begin_epoch(incarnation, old)
  local epoch = math.max(now_ms(), old + 1)
  -- The stream refuses ids that do not grow, and may remember more than a hash that came from a
  -- backup.
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if last then
    epoch = math.max(epoch, tonumber(string.match(last[1], '^%d+')) + 1)
  end
  redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'seq', 0, 'life', incarnation)
  return epoch, 0
end

-- The room's epoch and seq (numbers). Begins a new epoch first if one is due.
local function open(incarnation)
  local room = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'life')
  if not room[1] then
    return begin_epoch(incarnation, 0)
  end
  if room[3] ~= incarnation then
    return begin_epoch(incarnation, tonumber(room[1]))
  end
  return tonumber(room[1]), tonumber(room[2])
end

local function keep(ttl_s)
  redis.call('EXPIRE', KEYS[1], ttl_s)
  redis.call('EXPIRE', KEYS[2], ttl_s)
end
