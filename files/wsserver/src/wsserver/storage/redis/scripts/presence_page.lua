-- SPDX-License-Identifier: MIT
-- KEYS: totals, index. ARGV: room, the user after whom the page begins, its length.
-- Returns {users in the room, 1 if more follow, user, connections, user, connections, …}.
local start, stop = ARGV[1] .. ' ', '(' .. ARGV[1] .. '!'
local length = tonumber(ARGV[3])
local page = redis.call('ZRANGEBYLEX', KEYS[2], '(' .. start .. ARGV[2], stop, 'LIMIT', 0, length + 1)
local result = {redis.call('ZLEXCOUNT', KEYS[2], '(' .. start, stop), #page > length and 1 or 0}
for at = 1, math.min(#page, length) do
  result[#result + 1] = string.sub(page[at], #start + 1)
  result[#result + 1] = tonumber(redis.call('HGET', KEYS[1], page[at]))
end
return result
