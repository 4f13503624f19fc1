-- SPDX-License-Identifier: MIT
-- KEYS: lease. ARGV: worker. Releases the lease if this worker holds it.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
