-- SPDX-License-Identifier: MIT
-- After Postgres committed: removes the moved entries from the stream, and trims the logs of its
-- rooms, which may have grown meanwhile. KEYS: archive stream, its refused entries, then hash and
-- log of each room (same shard).
-- ARGV: the first id that stays, log length, log bytes, the newest archived position of each room,
-- ids of refused entries.
local rooms = (#KEYS - 2) / 2

for i = 4 + rooms, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    redis.call('XADD', KEYS[2], 'MAXLEN', 100, '*', unpack(entry[2]))
  end
end
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])

for i = 1, rooms do
  local hash, log, position = KEYS[1 + 2 * i], KEYS[2 + 2 * i], ARGV[3 + i]
  local room = redis.call('HMGET', hash, 'epoch', 'seq', 'archived')
  if room[1] then
    if newer(position, room[3]) then
      redis.call('HSET', hash, 'archived', position)
    else
      position = room[3]
    end
    local length = fitting(log, tonumber(ARGV[2]), tonumber(ARGV[3]))
    local kept = kept_with_archive(length, tonumber(room[1]), tonumber(room[2]), position)
    if kept then
      redis.call('XTRIM', log, 'MAXLEN', '~', string.format('%.0f', kept))
    end
  end
end
