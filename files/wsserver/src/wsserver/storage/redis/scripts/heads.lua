-- SPDX-License-Identifier: MIT
-- KEYS: room hash and room stream of each room (same shard). ARGV: room ttl s. Keeps the rooms from
-- expiring. Returns epoch and seq of each room's newest message, both empty for a room whose log is
-- gone.
local heads = {}
for i = 1, #KEYS, 2 do
  local room = redis.call('HMGET', KEYS[i], 'epoch', 'seq')
  if room[1] then
    keep(ARGV[1], KEYS[i], KEYS[i + 1])
  end
  heads[i], heads[i + 1] = room[1] or '', room[2] or ''
end
return heads
