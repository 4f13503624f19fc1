-- SPDX-License-Identifier: MIT
-- KEYS: room hash, room stream. ARGV: incarnation, room ttl s. Returns {epoch, seq} of the newest
-- message.
local epoch, seq = open(ARGV[1])
keep(ARGV[2])
return {string.format('%.0f', epoch), seq}
