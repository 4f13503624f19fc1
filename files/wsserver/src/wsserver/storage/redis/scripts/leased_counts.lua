-- SPDX-License-Identifier: MIT
-- Shared by the scripts beside it, which are loaded with this text before their own.
-- Counters shared by all workers, in one shard: see wsserver/cluster/leased_counts.py.
--
-- KEYS: 1 leases, a sorted set {worker: stamp}; 2 totals, a hash {key: count}; 3 the share of one
-- worker in them, a hash {key: count}; 4 (presence only) the index.
-- ARGV[1]: the beginning of the names of live channels (presence only).
--
-- A stamp is the time (ms) when the lease expires. Every renewal and every update raises it, so it
-- names the state that a worker knows. A command with an older stamp is late. A command with a
-- newer stamp shows that this Redis has lost the tail of its acknowledged writes. The stamp 0 means
-- that the other workers gave this worker up.
--
-- Redis runs these scripts also when its memory is full: open connections bound the size of these
-- keys, and a Redis that is full of messages must still admit clients.

-- The shared keys expire together, an hour after the last worker. The shares expire later, so that
-- a worker that is still in `leases` cannot have lost its share.
local KEEP_S = 3600
local KEEP_SHARE_S = 86400

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function stamp_of(worker)
  return tonumber(redis.call('ZSCORE', KEYS[1], worker) or nil)
end

-- Whether `worker`, which saw the stamp `seen` last, was given up or forgotten.
local function lost(worker, stamp, seen)
  if stamp and stamp > 0 and stamp < seen then
    redis.call('ZADD', KEYS[1], 0, worker)
    return true
  end
  return stamp == 0 or (not stamp and seen > 0)
end

local function renew(worker, stamp, lease_ms)
  local fresh = math.max(now + lease_ms, stamp + 1)
  redis.call('ZADD', KEYS[1], fresh, worker)
  return fresh
end

local function keep()
  for place, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, place == 3 and KEEP_SHARE_S or KEEP_S)
  end
end

-- Called with a key and its total before and after.
local changed = function() end

local function add(key, count)
  local total = redis.call('HINCRBY', KEYS[2], key, count)
  if total <= 0 then
    redis.call('HDEL', KEYS[2], key)
  end
  changed(key, total - count, total)
end
