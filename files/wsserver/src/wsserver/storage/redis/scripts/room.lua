-- SPDX-License-Identifier: MIT
-- Shared by the scripts beside it, which are loaded with this text before their own. A room is a
-- hash at KEYS[1] {epoch, seq, life (its incarnation), ended} and a stream at KEYS[2] whose entry ids
-- are <epoch>-<seq>.
--
-- `ended` names where the latest epochs ended, "<epoch>-<seq> <epoch>-<seq> …". A reader that has all
-- up to there knows that the epoch is complete, as far as anything can tell. Earlier releases do not
-- write the field: then nothing is known.
--
-- `incarnation` names a time in which Redis cannot have lost the tail of its acknowledged writes.
-- Under "appendfsync always" the incarnation is "aof" and never changes, else the run id, which
-- changes when Redis restarts. After a "+" follows the finding that the data was older than before,
-- if there was one (prove.lua). A room from another incarnation begins a new epoch, so that no epoch
-- has a seq twice.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- The most epochs in `ended`: all that a room is likely to have until it expires.
local KEPT_ENDS = 16

-- Whether `ended` has this epoch; it ends at `seq` or later then. `new`: add the epoch.
local function note_end(epoch, seq, new)
  local ends, found = {}, false
  for one, last in string.gmatch(redis.call('HGET', KEYS[1], 'ended') or '', '(%d+)-(%d+)') do
    if tonumber(one) == epoch then
      found, seq = true, math.max(seq, tonumber(last))
    else
      ends[#ends + 1] = one .. '-' .. last
    end
  end
  if found or new then
    ends[#ends + 1] = string.format('%.0f-%.0f', epoch, seq)
    redis.call('HSET', KEYS[1], 'ended', table.concat(ends, ' ', math.max(1, #ends - KEPT_ENDS + 1)))
  end
end

-- `old_seq`: the last seq of the old epoch; nil if that is not known.
local function begin_epoch(incarnation, old, old_seq)
  local epoch = math.max(now_ms(), old + 1)
  -- The stream refuses ids that do not grow, and may remember more than a hash that came from a
  -- backup.
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if last then
    local last_epoch, last_seq = string.match(last[1], '^(%d+)-(%d+)$')
    epoch = math.max(epoch, tonumber(last_epoch) + 1)
    if old_seq and tonumber(last_epoch) == old then
      old_seq = math.max(old_seq, tonumber(last_seq))
    end
  end
  if old_seq then
    note_end(old, old_seq, true)
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
  -- A worker may be a moment behind, and know the same incarnation as a room that has lost messages.
  -- The shard knows which incarnation it is.
  incarnation = redis.call('HGET', string.match(KEYS[1], '^[^}]+}:') .. 'life', 'name') or incarnation
  if room[3] ~= incarnation then
    -- Where data was lost, the end of the old epoch is not known.
    local complete = string.match(room[3] or '', '%+.*$') == string.match(incarnation, '%+.*$')
    return begin_epoch(incarnation, tonumber(room[1]), complete and tonumber(room[2]) or nil)
  end
  return tonumber(room[1]), tonumber(room[2])
end

-- A room without messages expires soon: joins must not fill the memory. While it has members, their
-- workers keep it.
local EMPTY_TTL_S = 60

-- Keeps a room from expiring. Each EXPIRE goes to the AOF, so the second half of the time decides.
local function keep(ttl_s, hash, log)
  hash, log = hash or KEYS[1], log or KEYS[2]
  ttl_s = tonumber(ttl_s)
  local left_s = redis.call('TTL', log)
  if left_s == -2 then -- no log
    ttl_s, left_s = EMPTY_TTL_S, redis.call('TTL', hash)
  end
  if left_s < ttl_s / 2 or left_s > ttl_s then
    redis.call('EXPIRE', hash, ttl_s)
    redis.call('EXPIRE', log, ttl_s)
  end
end
