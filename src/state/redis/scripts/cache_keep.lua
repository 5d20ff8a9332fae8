-- KEYS: entry, turn. ARGV: who made it, its lifetime (ms; '0': there is none), the entry.
-- One whose turn has run out may keep his answer all the same: it is as good as another's.
if ARGV[2] ~= '0' then
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
end
if redis.call('GET', KEYS[2]) == ARGV[1] then
    redis.call('DEL', KEYS[2])
end
return 1
