-- SPDX-License-Identifier: MIT
-- A worker that connects shows what was in this shard before Redis started. If the data is older,
-- all rooms of the shard get another incarnation, once for each start of Redis.
-- KEYS: the shard's life, its archive stream. ARGV: kind of incarnation (see room.lua), run id of
-- Redis, a value that was never used, the newest id of the archive stream that was seen under an
-- earlier run id (or empty), 1 if a message that was delivered is missing.
-- Returns {name of the incarnation, 1 if the data is older}.
--
-- A life is a hash: process (the run id), start (the last id of the archive stream when the first
-- worker connected to that process), renewed (the process in which older data was found), data (the
-- mark of that finding, kept for good), name.

local function newer(id, than)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  local than_ms, than_number = string.match(than, '^(%d+)-(%d+)$')
  ms, number, than_ms, than_number = tonumber(ms), tonumber(number), tonumber(than_ms), tonumber(than_number)
  return ms > than_ms or (ms == than_ms and number > than_number)
end

local function last_id()
  if redis.call('EXISTS', KEYS[2]) == 0 then
    return '0-0'
  end
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      return info[at + 1]
    end
  end
end

local kind, process, seen = ARGV[1], ARGV[2], ARGV[4]
local life = redis.call('HMGET', KEYS[1], 'process', 'start', 'renewed', 'data', 'name')
local start, data, older = life[2], life[4] or '', 0
if life[1] ~= process then
  start = last_id()
  redis.call('HSET', KEYS[1], 'process', process, 'start', start)
end
if life[3] ~= process and (ARGV[5] == '1' or (seen ~= '' and newer(seen, start))) then
  older, data = 1, '+' .. ARGV[3]
  redis.call('HSET', KEYS[1], 'renewed', process, 'data', data)
  -- What was seen is accounted for: a later start of Redis must not find it once more.
  if seen ~= '' and newer(seen, last_id()) then
    redis.call('XADD', KEYS[2], seen, 'r', '')
    redis.call('XDEL', KEYS[2], seen)
  end
end
if life[5] ~= kind .. data then
  redis.call('HSET', KEYS[1], 'name', kind .. data)
end
return {kind .. data, older}
