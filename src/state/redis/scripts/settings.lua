-- What operators have set. KEYS: version, all (a hash by name). ARGV: what to do, and what belongs to that.
local steps = {}

-- Also after a loss a version that nobody has seen before.
local function changed()
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local before = tonumber(redis.call('GET', KEYS[1]) or 0)
    redis.call('SET', KEYS[1], string.format('%.0f', math.max(now, before + 1)))
end

-- The version that is known. Tells the version, and what is set unless it is known.
function steps.read()
    local version = redis.call('GET', KEYS[1]) or '0'
    if version == ARGV[2] then
        return {version}
    end
    local told = redis.call('HVALS', KEYS[2])
    table.insert(told, 1, version)
    return told
end

-- Name, setting.
function steps.set()
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
    changed()
    return {}
end

-- Name.
function steps.unset()
    local removed = redis.call('HDEL', KEYS[2], ARGV[2])
    if removed == 1 then
        changed()
    end
    return {tostring(removed)}
end

-- Name, the run of a process with which it ends.
function steps.finish()
    local told = redis.call('HGET', KEYS[2], ARGV[2])
    if told and cjson.decode(told).ends_with == ARGV[3] then
        redis.call('HDEL', KEYS[2], ARGV[2])
        changed()
    end
    return {}
end

-- Names and settings in turn.
function steps.restore()
    if redis.call('EXISTS', KEYS[1]) == 0 then
        for i = 2, #ARGV, 2 do
            redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
        end
        changed()
    end
    return {}
end

return steps[ARGV[1]]()
