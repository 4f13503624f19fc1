-- SPDX-License-Identifier: MIT
-- One atomic publish. KEYS: room hash, room stream, dedupe key, live channel, and with an archive
-- its stream (same shard).
-- ARGV: incarnation, header fields after the position, data, log length, log bytes, room ttl s,
-- dedupe ttl s, and with an archive the room.
-- Returns {epoch, seq, 1 if this publish had landed before}.
local before = redis.call('GET', KEYS[3])
if before then
  local epoch, seq = string.match(before, '^(%d+)-(%d+)$')
  return {epoch, tonumber(seq), 1}
end
local epoch, seq = open(ARGV[1])
seq = seq + 1
local text = string.format('%.0f', epoch)
local id = text .. '-' .. string.format('%.0f', seq)
-- Header and data are separate, so that a worker never has to parse the data.
local envelope = '{"epoch":' .. text .. ',"seq":' .. string.format('%.0f', seq) .. ',' .. ARGV[2] .. '}\n' .. ARGV[3]
redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq))
local kept = tonumber(ARGV[4])
if seq % 32 == 0 then -- measuring costs time
  kept = fitting(KEYS[2], kept, tonumber(ARGV[5]))
end
if KEYS[5] then
  redis.call('XADD', KEYS[5], '*', 'r', ARGV[8], 'm', envelope)
  kept = kept_with_archive(kept, epoch, seq, redis.call('HGET', KEYS[1], 'archived'))
end
if kept then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', string.format('%.0f', kept), id, 'm', envelope)
else
  redis.call('XADD', KEYS[2], id, 'm', envelope)
end
redis.call('SET', KEYS[3], id, 'EX', ARGV[7])
keep(ARGV[6])
redis.call('PUBLISH', KEYS[4], envelope)
return {text, seq, 0}
