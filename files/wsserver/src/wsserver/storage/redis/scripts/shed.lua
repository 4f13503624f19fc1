-- SPDX-License-Identifier: MIT
-- KEYS: room hash, log. Trims the log to the messages that Postgres does not have, and the newest
-- one, which keeps the room's position. Returns the number of logs trimmed: 0 or 1.
local room = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'archived')
local kept = room[1] and kept_with_archive(1, tonumber(room[1]), tonumber(room[2]), room[3])
if kept and redis.call('XTRIM', KEYS[2], 'MAXLEN', string.format('%.0f', kept)) > 0 then
  return 1
end
return 0
