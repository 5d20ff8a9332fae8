-- Enters a node, or strikes it out; forgets those who have expired. Returns the time, how many have gone lately, their
-- ids, how many of them have said goodbye, their ids, and what those tell who live.
-- KEYS: expiry (sorted set), told (hash), gone and left (sorted sets). ARGV: id, what it tells (empty: it leaves),
-- expires after (ms).
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local put = function(number) return string.format('%.0f', number) end
-- Longer than anybody remembers one whom he misses.
local gone_kept = 60000

local strike = function(id)
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    redis.call('ZADD', KEYS[3], put(now + gone_kept), id)
end
if ARGV[2] == '' then
    strike(ARGV[1])
    redis.call('ZADD', KEYS[4], put(now + gone_kept), ARGV[1])
else
    redis.call('ZADD', KEYS[1], put(now + ARGV[3]), ARGV[1])
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[1])
    redis.call('ZREM', KEYS[4], ARGV[1])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', put(now))) do
    strike(id)
end
local reply = { put(now) }
for _, key in ipairs({ KEYS[3], KEYS[4] }) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', put(now))
    local ids = redis.call('ZRANGE', key, 0, -1)
    reply[#reply + 1] = put(#ids)
    for _, id in ipairs(ids) do
        reply[#reply + 1] = id
    end
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    reply[#reply + 1] = redis.call('HGET', KEYS[2], id) or ''
end
return reply
