-- Uses up a ticket. A repeat by the same taker returns 1 again.
-- KEYS: the ticket, its taker. ARGV: the taker, and for how many seconds it is known.
if redis.call('GET', KEYS[2]) == ARGV[1] then
    return 1
end
if redis.call('DEL', KEYS[1]) == 0 then
    return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return 1
