-- SPDX-License-Identifier: MIT
-- After leased_counts.lua. A key is "<room> <user>": a room's name has no space. KEYS[4]: a sorted
-- set of all keys with equal scores, so that the users of a room are neighbours, in order. Sends
-- the room an event when a user came or left.
changed = function(key, before, after)
  if before > 0 and after > 0 then
    return
  end
  local room, user = string.match(key, '^([^ ]*) (.*)$')
  if after > 0 then
    redis.call('ZADD', KEYS[4], 0, key)
  else
    redis.call('ZREM', KEYS[4], key)
  end
  local event = '{"member":' .. cjson.encode(user) .. ',"joined":' .. (after > 0 and 1 or 0) .. '}'
  redis.call('PUBLISH', ARGV[1] .. room, event)
end
