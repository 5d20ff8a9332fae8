-- What is kept of messages, and how it goes. ARGV: what to do, and what belongs to that.
local steps = {}

-- Message.
function steps.record()
    local replay = last_life(ARGV[2])
    local ended = redis.call('HMGET', life(ARGV[2], replay), 'outcome', 'at', 'event', 'conversation', 'body', 'reply')
    if not ended[1] then
        return {}
    end
    local said = ended[6] and redis.call('HGET', key('r', ended[6]), 'body')
    return {ended[1], ended[2], ended[3] or '', ended[4] or '', ended[5] or '', said or '', replay}
end

-- Conversation, the most. The records of its messages that have ended, the newest first.
function steps.messages()
    local found = {}
    for _, member in ipairs(redis.call('SMEMBERS', key('of', ARGV[2]))) do
        local known = redis.call('HMGET', key('m', member), 'at', 'body', 'outcome')
        if known[2] and known[3] then
            found[#found + 1] = {tonumber(known[1] or 0), known[2]}
        end
    end
    table.sort(found, function(one, other) return one[1] > other[1] end)
    local bodies = {}
    for i = 1, math.min(#found, tonumber(ARGV[3])) do
        bodies[i] = found[i][2]
    end
    return bodies
end

-- Message, conversation, at, story, seconds to keep, replay.
function steps.note_story()
    local open, member = life(ARGV[2], ARGV[7]), ARGV[7] .. ':' .. ARGV[2]
    if not redis.call('HGET', open, 'outcome') then
        redis.call('HSET', open, 'story', ARGV[5], 'conversation', ARGV[3])
        redis.call('HSETNX', open, 'at', ARGV[4])
        redis.call('EXPIRE', open, ARGV[6])
        redis.call('SADD', key('of', ARGV[3]), member)
        lives(ARGV[2], ARGV[7], ARGV[6])
        redis.call('EXPIRE', key('of', ARGV[3]), ARGV[6])
    end
    return {}
end

-- Message.
function steps.story()
    return {redis.call('HGET', life(ARGV[2], last_life(ARGV[2])), 'story') or ''}
end

-- Reply's name, conversation, replay; then the messages it covers.
function steps.revoke()
    for i = 5, #ARGV do
        local covered = life(ARGV[i], ARGV[4])
        local known = redis.call('HMGET', covered, 'outcome', 'reply')
        if not known[1] and known[2] == ARGV[2] then
            redis.call('DEL', covered)
            redis.call('SREM', key('of', ARGV[3]), ARGV[4] .. ':' .. ARGV[i])
        end
    end
    if redis.call('HGET', key('r', ARGV[2]), 'done') ~= '1' then
        redis.call('DEL', key('r', ARGV[2]))
    end
    return {}
end

local function strip(name)
    redis.call('HDEL', key('r', name), 'body', 'words')
end

-- Conversation, seconds to keep. Tells the messages that were meant and are not meant any more.
function steps.forget()
    local discarded = {}
    for _, member in ipairs(redis.call('SMEMBERS', key('of', ARGV[2]))) do
        local last, message = string.match(member, '^(%d+):(.*)$')
        for replay = 0, tonumber(last) do
            strip(replay == 0 and message or message .. '#answer' .. replay)
            for _, purpose in ipairs({'holding', 'failure', 'handoff'}) do
                strip(message .. '#' .. purpose .. replay)
            end
        end
        local of = life(message, last)
        redis.call('HDEL', of, 'body', 'story')
        if redis.call('EXISTS', of) == 1 and redis.call('HSETNX', of, 'outcome', '"discarded"') == 1 then
            redis.call('ZADD', base .. 'ends', redis.call('HGET', of, 'at') or 0, member)
            redis.call('EXPIRE', of, ARGV[3])
            discarded[#discarded + 1] = message
        end
    end
    -- Who has it in hand goes on under the same claim.
    redis.call('HDEL', key('v', ARGV[2]), 'user', 'holder', 'heard', 'history', 'away', 'alias', 'touched')
    redis.call('ZREM', base .. 'touched', ARGV[2])
    return discarded
end

-- Whether a reply covers something that has not ended.
local function is_open(reply)
    local known = redis.call('HMGET', reply, 'covers', 'replay')
    for message in string.gmatch(known[1] or '', '[^\n]+') do
        local of = life(message, known[2])
        if redis.call('EXISTS', of) == 1 and not redis.call('HGET', of, 'outcome') then
            return true
        end
    end
    return false
end

-- Texts older than this go, and whatever has ended before that; the most of each kind. Tells whether there may be more.
function steps.tidy()
    local texts, all, most = '(' .. ARGV[2], '(' .. ARGV[3], ARGV[4]
    local old = redis.call('ZRANGEBYSCORE', base .. 'texts', '-inf', texts, 'LIMIT', 0, most)
    for _, name in ipairs(old) do
        strip(name)
        redis.call('ZREM', base .. 'texts', name)
    end
    local ends = redis.call('ZRANGEBYSCORE', base .. 'ends', '-inf', all, 'LIMIT', 0, most)
    local replies = {}
    for _, member in ipairs(ends) do
        local of = key('m', member)
        local known = redis.call('HMGET', of, 'reply', 'conversation')
        if known[1] then
            replies[#replies + 1] = known[1]
        end
        if known[2] then
            redis.call('SREM', key('of', known[2]), member)
        end
        redis.call('DEL', of)
        redis.call('ZREM', base .. 'ends', member)
    end
    for _, name in ipairs(replies) do
        if not is_open(key('r', name)) then
            redis.call('DEL', key('r', name))
            redis.call('ZREM', base .. 'texts', name)
        end
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', base .. 'touched', '-inf', all)) do
        if redis.call('HEXISTS', key('v', id), 'away') == 0 then
            redis.call('DEL', key('v', id))
            redis.call('ZREM', base .. 'touched', id)
        end
    end
    local more = #old == tonumber(most) or #ends == tonumber(most)
    return {more and '1' or '0'}
end

-- Since, the most. Conversations that we held, with the time something was last said in each.
function steps.open()
    local answer = {}
    for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', base .. 'touched', '+inf', ARGV[2])) do
        local known = redis.call('HMGET', key('v', id), 'alias', 'holder', 'touched')
        if known[3] and not known[1] and known[2] ~= 'other' then
            answer[#answer + 1] = id
            answer[#answer + 1] = known[3]
        end
        if #answer >= 2 * tonumber(ARGV[3]) then
            break
        end
    end
    return answer
end

return steps[ARGV[1]]()
