-- SPDX-License-Identifier: MIT
-- Sets this worker's counts of some keys, then grants claims. A claim adds 1 to two keys, unless
-- the total of one of them is at its limit.
-- ARGV: 2 worker, 3 the stamp that the worker saw last, 4 its lease (ms), 5 the number of changes.
-- The changes follow (key, this worker's count), then the claims (key, limit, key, limit).
-- Returns {stamp, for each claim 0 or the limit (1 or 2) that is reached…}. Returns {0} for an old
-- stamp, and nothing if this worker was given up.
local seen = tonumber(ARGV[3])
local stamp = stamp_of(ARGV[2])
if lost(ARGV[2], stamp, seen) then
  return {}
end
if stamp ~= seen then
  return {0}
end
local result = {renew(ARGV[2], stamp, tonumber(ARGV[4]))}
local claims = 6 + 2 * ARGV[5]
for at = 6, claims - 1, 2 do
  local key, count = ARGV[at], tonumber(ARGV[at + 1])
  local before = tonumber(redis.call('HGET', KEYS[3], key) or 0)
  if count ~= before then
    if count == 0 then
      redis.call('HDEL', KEYS[3], key)
    else
      redis.call('HSET', KEYS[3], key, count)
    end
    add(key, count - before)
  end
end
for at = claims, #ARGV, 4 do
  local refused = 0
  for place = 1, 2 do
    local key, limit = ARGV[at + 2 * place - 2], tonumber(ARGV[at + 2 * place - 1])
    if refused == 0 and tonumber(redis.call('HGET', KEYS[2], key) or 0) >= limit then
      refused = place
    end
  end
  if refused == 0 then
    for place = 1, 2 do
      local key = ARGV[at + 2 * place - 2]
      redis.call('HINCRBY', KEYS[3], key, 1)
      add(key, 1)
    end
  end
  result[#result + 1] = refused
end
keep()
return result
