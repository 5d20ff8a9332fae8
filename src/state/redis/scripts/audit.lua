-- What people have done. KEYS: entries (a sorted set, all with the score 0). ARGV: what to do, and what belongs to that.
local steps = {}

-- Entry.
function steps.note()
    redis.call('ZADD', KEYS[1], 0, ARGV[2])
    return {}
end

-- Before which, the most.
function steps.list()
    return redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[2], '-', 'LIMIT', 0, ARGV[3])
end

-- How the oldest to be kept begins, how many are kept.
function steps.tidy()
    redis.call('ZREMRANGEBYLEX', KEYS[1], '-', '(' .. ARGV[2])
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[3] - 1)
    return {}
end

return steps[ARGV[1]]()
