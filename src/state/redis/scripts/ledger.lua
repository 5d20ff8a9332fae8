-- What every script about a conversation begins with. KEYS[1] tells when the conversation's bucket was born; all other
-- keys are made from it and lie in the same slot, so that one script sees them all at one moment.
local base = string.sub(KEYS[1], 1, -5)

local function key(kind, id)
    return base .. kind .. ':' .. id
end

local function life(message, replay)
    return key('m', replay .. ':' .. message)
end

-- The last of a message's lives that is known.
local function last_life(message)
    return redis.call('GET', key('l', message)) or '0'
end

-- A message lives this life; the first needs no note.
local function lives(message, replay, seconds)
    if tonumber(replay) > 0 and tonumber(replay) >= tonumber(last_life(message)) then
        redis.call('SET', key('l', message), replay, 'EX', seconds)
    end
end

-- When the bucket was born. Whoever asks first after its loss begins it anew, and is told so with the same answer.
local function born(now)
    redis.call('SET', KEYS[1], now, 'NX')
    return redis.call('GET', KEYS[1])
end

-- Whether a conversation is claimed by this owner under this fence.
local function is_claimed(conversation, owner, fence)
    local held = redis.call('HMGET', conversation, 'owner', 'fence')
    return held[1] == owner and held[2] == fence
end

-- Something was said in a conversation.
local function touch(id, at)
    local touched = tonumber(redis.call('HGET', key('v', id), 'touched') or 0)
    if tonumber(at) > touched then
        redis.call('HSET', key('v', id), 'touched', at)
        redis.call('ZADD', base .. 'touched', at, id)
    end
end

-- Notes who holds a conversation, unless something newer is known; whether the holder is another one than before.
local function hear(conversation, holder, at)
    local known = redis.call('HMGET', conversation, 'holder', 'heard')
    if known[1] and tonumber(known[2]) > tonumber(at) then
        return false
    end
    redis.call('HSET', conversation, 'holder', holder, 'heard', at)
    local changed = known[1] and known[1] ~= holder
    if changed then
        -- The other has spoken.
        redis.call('HDEL', conversation, 'history')
    end
    return changed
end

-- A reply is at its end: from now on its text is kept for a while only.
local function done(name, seconds)
    local reply = key('r', name)
    local known = redis.call('HMGET', reply, 'at', 'done')
    if known[1] and known[2] ~= '1' then
        redis.call('HSET', reply, 'done', '1')
        redis.call('ZADD', base .. 'texts', known[1], name)
        redis.call('EXPIRE', reply, seconds)
    end
end

-- What is known of a message in one of its lives: a word for it, and what belongs to that.
local function recall(message, replay)
    local known = redis.call('HMGET', life(message, replay), 'outcome', 'reply')
    if known[1] then
        return 'ended', known[1]
    end
    if known[2] then
        local body = redis.call('HGET', key('r', known[2]), 'body')
        if body then
            return 'intended', body
        end
        -- One that was meant and forgotten with its customer is not meant again.
        return 'ended', '"discarded"'
    end
    for _, purpose in ipairs({'handoff', 'failure'}) do
        local told = redis.call('HGET', key('r', message .. '#' .. purpose .. replay), 'body')
        if told then
            return 'told', told
        end
    end
    return 'absent', ''
end

-- What is remembered of a conversation, with nothing as an empty text.
local function remembered(conversation)
    local fields = redis.call('HMGET', conversation, 'holder', 'heard', 'history', 'away', 'alias', 'user')
    for i = 1, 6 do
        fields[i] = fields[i] or ''
    end
    return fields
end

