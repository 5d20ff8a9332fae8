-- Enters how messages of a conversation ended. ARGV: conversation, owner, fence or '' for none, history or '', now,
-- seconds to keep; then message, replay, event, outcome, at, reply's name or '', and body of each record.
local id, owner, fence, kept = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
local conversation = key('v', id)
if fence ~= '' then
    local held = redis.call('HMGET', conversation, 'owner', 'fence')
    -- Where nothing is known of a claim all was lost, and nobody has claimed it since.
    if held[2] and not (held[1] == owner and held[2] == fence) then
        return 0
    end
    redis.call('HDEL', conversation, 'owner')
end
for i = 7, #ARGV, 7 do
    local message, replay, name = ARGV[i], ARGV[i + 1], ARGV[i + 5]
    local ended, member = life(message, replay), replay .. ':' .. message
    redis.call('HSET', ended, 'event', ARGV[i + 2], 'outcome', ARGV[i + 3], 'at', ARGV[i + 4], 'body', ARGV[i + 6],
        'conversation', id)
    lives(message, replay, kept)
    redis.call('HDEL', ended, 'story')
    if name ~= '' then
        redis.call('HSET', ended, 'reply', name)
        done(name, kept)
    end
    redis.call('EXPIRE', ended, kept)
    redis.call('ZADD', base .. 'ends', ARGV[i + 4], member)
    redis.call('SADD', key('of', id), member)
    if redis.call('TTL', key('of', id)) < tonumber(kept) then
        redis.call('EXPIRE', key('of', id), kept)
    end
end
if ARGV[4] ~= '' then
    redis.call('HSET', conversation, 'history', ARGV[4])
    touch(id, ARGV[5])
end
if redis.call('EXISTS', conversation) == 1 then
    redis.call('EXPIRE', conversation, kept)
end
return 1
