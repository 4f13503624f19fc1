-- SPDX-License-Identifier: MIT
-- Returns the oldest entries of an archive stream to the holder of its lease. Takes the lease if it
-- is free, else renews it.
-- KEYS: archive stream, lease, the shard's life. ARGV: worker, lease ms, most entries, most bytes (the last entry may
-- exceed them).
-- Returns false if another worker holds the lease, else {length of the stream, age of its oldest
-- entry in ms, entries, the process of the life (or false)}.
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
  return false
end
-- A renewal costs a write to the disk, so it is not done every time.
if not holder or redis.call('PTTL', KEYS[2]) < ARGV[2] / 2 then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end

local entries, bytes, from, more = {}, 0, '-', true
local most_entries, most_bytes, step = tonumber(ARGV[3]), tonumber(ARGV[4]), 1
while more do
  local found = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', step)
  for _, entry in ipairs(found) do
    entries[#entries + 1] = entry
    bytes = bytes + #entry[2][#entry[2]]
    from = '(' .. entry[1]
  end
  more = #found == step and #entries < most_entries and bytes < most_bytes
  if more then
    -- Entries may be large: read as many as are likely to fit, by the size of those so far.
    local fit = math.ceil((most_bytes - bytes) / (bytes / #entries + 1))
    step = math.min(step * 4, fit, most_entries - #entries)
  end
end

local age = 0
if entries[1] then
  local now = redis.call('TIME')
  age = now[1] * 1000 + math.floor(now[2] / 1000) - string.match(entries[1][1], '^%d+')
end
return {redis.call('XLEN', KEYS[1]), age, entries, redis.call('HGET', KEYS[3], 'process')}
