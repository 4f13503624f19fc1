-- SPDX-License-Identifier: MIT
-- One atomic publish. KEYS: room hash, room stream, dedupe key, live channel (same shard).
-- ARGV: life, header fields after the position, data, log length, room ttl s, dedupe ttl s.
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
-- Header and data apart: whoever receives this never has to parse the data.
local envelope = '{"epoch":' .. text .. ',"seq":' .. string.format('%.0f', seq) .. ',' .. ARGV[2] .. '}\n' .. ARGV[3]
redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq))
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], id, 'm', envelope)
redis.call('SET', KEYS[3], id, 'EX', ARGV[6])
keep(ARGV[5])
redis.call('PUBLISH', KEYS[4], envelope)
return {text, seq, 0}
