-- KEYS: entry, turn. ARGV: who asks, how long a turn lasts (ms), '1' when the entry is good for nothing.
if ARGV[3] == '1' then
    redis.call('DEL', KEYS[1])
end
local entry = redis.call('GET', KEYS[1])
if entry then
    return {'entry', entry}
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
    return {'theirs'}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {'ours'}
