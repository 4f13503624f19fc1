-- SPDX-License-Identifier: MIT
-- ARGV: 2 worker, 3 the stamp that the worker saw last (0: none yet), 4 its lease (ms).
-- Returns {stamp, now, workers whose lease expired…}, or nothing if this worker was given up.
local stamp = stamp_of(ARGV[2])
if lost(ARGV[2], stamp, tonumber(ARGV[3])) then
  return {}
end
stamp = renew(ARGV[2], stamp or 0, tonumber(ARGV[4]))
keep()
return {stamp, now, unpack(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 10))}
