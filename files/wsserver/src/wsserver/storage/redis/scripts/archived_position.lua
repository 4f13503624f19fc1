-- SPDX-License-Identifier: MIT
-- Shared by the scripts that use the archive. The field `archived` of a room's hash,
-- "<epoch>-<seq>", is the newest message up to which Postgres has the whole room.

local function parse(position)
  local epoch, seq = string.match(position or '', '^(%d+)-(%d+)$')
  return tonumber(epoch) or 0, tonumber(seq) or 0
end

local function newer(position, than)
  local epoch, seq = parse(position)
  local than_epoch, than_seq = parse(than)
  return epoch > than_epoch or (epoch == than_epoch and seq > than_seq)
end

-- How many of its newest messages fit into `bytes` of memory, at most `length`, at least one. A count
-- alone is no bound: messages may be large.
local function fitting(log, length, bytes)
  local used = redis.call('MEMORY', 'USAGE', log, 'SAMPLES', 0)
  if used and used > bytes then
    return math.min(length, math.max(1, math.floor(redis.call('XLEN', log) * bytes / used)))
  end
  return length
end

-- How many of its newest messages a room's log keeps: its length, or more if Postgres does not have
-- them all. nil means all: while nothing of this epoch is archived, a part of an older epoch may be
-- missing as well.
local function kept_with_archive(length, epoch, seq, archived)
  local archived_epoch, archived_seq = parse(archived)
  if archived_epoch ~= epoch then
    return nil
  end
  return math.max(length, seq - archived_seq)
end
