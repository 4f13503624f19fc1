-- SPDX-License-Identifier: MIT
-- KEYS: room stream. ARGV: XRANGE or XREVRANGE, its start and its end, most messages, most bytes.
-- Returns envelopes. Stops at the most messages, or once the messages before the last one have the
-- most bytes of data.
local most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local found, before_last, last, from = {}, 0, 0, ARGV[2]
while true do
  local entries = redis.call(ARGV[1], KEYS[1], from, ARGV[3], 'COUNT', 16)
  for _, entry in ipairs(entries) do
    if #found >= most or before_last >= most_bytes then
      return found
    end
    local envelope = entry[2][2]
    found[#found + 1] = envelope
    before_last = before_last + last
    last = #envelope - string.find(envelope, '\n', 1, true)
    from = '(' .. entry[1]
  end
  if #entries < 16 then
    return found
  end
end
