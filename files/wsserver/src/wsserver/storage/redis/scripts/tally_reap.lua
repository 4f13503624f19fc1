-- SPDX-License-Identifier: MIT
-- Subtracts a part of a dead worker's share from the totals. KEYS[3] is the dead worker's share.
-- ARGV: 2 the reaper, 3 its lease (ms), 4 the pause after which it must not reap (ms), 5 the dead
-- worker, 6 most keys.
-- Returns the number of keys.
local own = stamp_of(ARGV[2])
if not own or now > own - ARGV[3] + ARGV[4] then
  return 0  -- this command is late: the other worker may be alive
end
local stamp = stamp_of(ARGV[5])
if not stamp or stamp > now then
  return 0
end
redis.call('ZADD', KEYS[1], 0, ARGV[5])
local share = redis.call('HRANDFIELD', KEYS[3], ARGV[6], 'WITHVALUES')
for at = 1, #share, 2 do
  redis.call('HDEL', KEYS[3], share[at])
  add(share[at], -share[at + 1])
end
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[5])
end
return #share / 2
