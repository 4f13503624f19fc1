-- SPDX-License-Identifier: MIT
-- What Redis has of a message that a worker delivered once. KEYS: room hash, room stream.
-- ARGV: epoch, seq. Returns epoch and seq of the room's newest message, and the header of the message
-- at that position; each is empty if it does not exist.
local room = redis.call('HMGET', KEYS[1], 'epoch', 'seq')
local id = ARGV[1] .. '-' .. ARGV[2]
local entry = redis.call('XRANGE', KEYS[2], id, id)[1]
return {room[1] or '', room[2] or '', entry and string.match(entry[2][2], '^[^\n]*\n') or ''}
