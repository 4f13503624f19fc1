-- SPDX-License-Identifier: MIT
-- KEYS: of each user a hash {worker: "<units per second> <time in ms>"}.
-- ARGV: worker, how long a report counts (ms), then this worker's rate for each user.
-- Returns for each user the sum over all workers, as text.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local sums = {}
for place, key in ipairs(KEYS) do
  redis.call('HSET', key, ARGV[1], ARGV[place + 2] .. ' ' .. now)
  redis.call('PEXPIRE', key, ARGV[2])
  local sum = 0
  local reports = redis.call('HGETALL', key)
  for at = 1, #reports, 2 do
    local rate, reported = string.match(reports[at + 1], '^(.-) (.*)$')
    if now - reported > tonumber(ARGV[2]) then
      redis.call('HDEL', key, reports[at])
    else
      sum = sum + rate
    end
  end
  sums[place] = tostring(sum)
end
return sums
