-- What is remembered of a conversation. ARGV: what to do, conversation, and what belongs to that.
local id = ARGV[2]
local conversation = key('v', id)

local steps = {}

function steps.remembered()
    return remembered(conversation)
end

-- Message, replay, now.
function steps.recall()
    local word, body = recall(ARGV[3], ARGV[4])
    return {word, body, born(ARGV[5])}
end

function steps.owner()
    return {redis.call('HGET', conversation, 'owner') or ''}
end

-- Owner, fence.
function steps.is_ours()
    return is_claimed(conversation, ARGV[3], ARGV[4]) and {'1'} or {'0'}
end

-- Owner, fence or ''.
function steps.release()
    local held = redis.call('HMGET', conversation, 'owner', 'fence')
    if held[1] == ARGV[3] and (ARGV[4] == '' or held[2] == ARGV[4]) then
        redis.call('HDEL', conversation, 'owner')
    end
    return {}
end

-- Holder, at, channel, seconds to keep.
function steps.hear()
    local known = redis.call('HGET', conversation, 'holder')
    local changed = hear(conversation, ARGV[3], ARGV[4])
    local now = redis.call('HMGET', conversation, 'holder', 'heard', 'touched')
    if now[1] == ARGV[3] and now[1] ~= known then
        redis.call('HDEL', conversation, 'history')
        redis.call('PUBLISH', ARGV[5], ARGV[3] .. '\n' .. ARGV[4] .. '\n' .. id)
    end
    if not now[3] then
        touch(id, ARGV[4])
    end
    redis.call('EXPIRE', conversation, ARGV[6])
    return {changed and '1' or '0', now[1], now[2]}
end

-- Away or '', seconds to keep.
function steps.away()
    if ARGV[3] == '' then
        redis.call('HDEL', conversation, 'away')
    else
        redis.call('HSET', conversation, 'away', ARGV[3])
        redis.call('EXPIRE', conversation, ARGV[4])
    end
    return {}
end

-- What is noted, at, seconds to keep.
local function note(field)
    redis.call('HSET', conversation, field, ARGV[3])
    touch(id, ARGV[4])
    redis.call('EXPIRE', conversation, ARGV[5])
    return {}
end

function steps.user()
    return note('user')
end

function steps.said()
    return note('history')
end

-- What another needs to know who takes over: history, customer, touched, and those that were merged into this one.
function steps.peek()
    local fields = redis.call('HMGET', conversation, 'history', 'user', 'touched')
    local answer = {fields[1] or '', fields[2] or '', fields[3] or ''}
    for _, before in ipairs(redis.call('SMEMBERS', key('merged', id))) do
        answer[#answer + 1] = before
    end
    return answer
end

-- History or '', customer or '', touched or '', seconds to keep.
function steps.absorb()
    if ARGV[3] ~= '' then
        redis.call('HSETNX', conversation, 'history', ARGV[3])
    end
    if ARGV[4] ~= '' then
        redis.call('HSETNX', conversation, 'user', ARGV[4])
    end
    if ARGV[5] ~= '' then
        touch(id, ARGV[5])
    end
    redis.call('EXPIRE', conversation, ARGV[6])
    return {}
end

-- Seconds to keep; then those merged into this one.
function steps.gather()
    for i = 4, #ARGV do
        redis.call('SADD', key('merged', id), ARGV[i])
    end
    redis.call('EXPIRE', key('merged', id), ARGV[3])
    return {}
end

-- Where it went, seconds to keep.
function steps.cease()
    redis.call('HSET', conversation, 'alias', ARGV[3])
    redis.call('HDEL', conversation, 'history', 'holder', 'heard', 'away')
    redis.call('DEL', key('merged', id))
    redis.call('EXPIRE', conversation, ARGV[4])
    return {}
end

-- Where it went now, and from where: of one that had ceased before.
function steps.follow()
    if redis.call('HGET', conversation, 'alias') == ARGV[4] then
        redis.call('HSET', conversation, 'alias', ARGV[3])
    end
    return {}
end

return steps[ARGV[1]]()
