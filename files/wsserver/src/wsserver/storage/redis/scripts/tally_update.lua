-- SPDX-License-Identifier: MIT
-- ARGV: 2 worker, 3 the stamp it saw last, 4 its lease (ms), 5 the number of changes, then the
-- changes (key, what this worker counts), then claims (key, limit, key, limit): one more in both,
-- unless a total is at its limit.
-- Returns {stamp, for each claim 0 or which of its limits refused it…}; {0} if the stamp is an old
-- one; nothing if this worker was given up.
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
