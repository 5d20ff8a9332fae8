-- What lies in a slot of its own. ARGV: what to do, value, seconds to keep.
local steps = {}

function steps.get()
    return {redis.call('GET', KEYS[1]) or ''}
end

function steps.set()
    redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
    return {}
end

-- The latest wins; tells what was there before.
function steps.latest()
    local before = redis.call('GET', KEYS[1])
    if not before or tonumber(before) < tonumber(ARGV[2]) then
        redis.call('SET', KEYS[1], ARGV[2])
    end
    return {before or ''}
end

function steps.add()
    redis.call('SADD', KEYS[1], ARGV[2])
    redis.call('EXPIRE', KEYS[1], ARGV[3])
    return {}
end

function steps.members()
    return redis.call('SMEMBERS', KEYS[1])
end

function steps.delete()
    redis.call('DEL', KEYS[1])
    return {}
end

return steps[ARGV[1]]()
