-- SPDX-License-Identifier: MIT
-- KEYS: room hash, room stream. ARGV: incarnation, room ttl s, epoch and seq that a worker
-- delivered once. If the log ends before that, its tail was lost: a new epoch begins. If that epoch
-- has ended, it ended there or later. Returns {epoch, seq}.
local epoch, seq = open(ARGV[1])
local seen_epoch, seen_seq = tonumber(ARGV[3]), tonumber(ARGV[4])
if epoch < seen_epoch or (epoch == seen_epoch and seq < seen_seq) then
  epoch, seq = begin_epoch(ARGV[1], seen_epoch, seen_seq)
elseif epoch > seen_epoch then
  note_end(seen_epoch, seen_seq, false)
end
keep(ARGV[2])
return {string.format('%.0f', epoch), seq}
