-- Enters that a reply is about to be posted. ARGV: conversation, owner, fence or '' for none, '1' for an answer, the
-- reply's name, replay, body, words, at, seconds to keep what has not ended, seconds to keep what has; then the
-- messages it covers.
local conversation, name, replay = key('v', ARGV[1]), ARGV[5], ARGV[6]
if ARGV[3] ~= '' and not is_claimed(conversation, ARGV[2], ARGV[3]) then
    return {'lost', ''}
end
local reply = key('r', name)
if ARGV[4] ~= '1' then
    if redis.call('EXISTS', reply) == 1 then
        return {'taken', ARGV[12]}
    end
    redis.call('HSET', reply, 'body', ARGV[7], 'at', ARGV[9])
    done(name, ARGV[11])
    return {'ours', ''}
end
local control = redis.call('HMGET', conversation, 'holder', 'heard')
if control[1] == 'other' then
    return {'human', control[2]}
end
for i = 12, #ARGV do
    local known = redis.call('HMGET', life(ARGV[i], replay), 'outcome', 'reply')
    if known[1] or (known[2] and known[2] ~= name) then
        return {'taken', ARGV[i]}
    end
end
-- One of that name with other words may have been posted.
if redis.call('EXISTS', reply) == 1 and redis.call('HGET', reply, 'words') ~= ARGV[8] then
    return {'taken', ARGV[12]}
end
-- The first write of a script is the one that a full Redis refuses: it must be one that it would refuse.
redis.call('HSET', reply, 'body', ARGV[7], 'words', ARGV[8], 'at', ARGV[9], 'replay', replay,
    'covers', table.concat(ARGV, '\n', 12))
redis.call('HDEL', reply, 'done')
redis.call('EXPIRE', reply, ARGV[10])
for i = 12, #ARGV do
    local covered = life(ARGV[i], replay)
    redis.call('HSET', covered, 'reply', name, 'conversation', ARGV[1])
    redis.call('HSETNX', covered, 'at', ARGV[9])
    redis.call('EXPIRE', covered, ARGV[10])
    redis.call('SADD', key('of', ARGV[1]), replay .. ':' .. ARGV[i])
    redis.call('EXPIRE', key('of', ARGV[1]), ARGV[10])
end
return {'ours', ''}
