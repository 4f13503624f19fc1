-- SPDX-License-Identifier: MIT
-- For a worker that stops: after a grace, other workers subtract its share from the totals.
-- ARGV: 2 worker, 3 grace (ms).
local stamp = stamp_of(ARGV[2])
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[2])
elseif stamp and stamp > 0 then
  redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
end
