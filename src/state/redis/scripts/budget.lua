-- Adds what a process has used. KEYS: the total of all; what this process has told. ARGV: all that it has used so far, the
-- highest total, seconds to keep the one and the other.
-- A process tells a sum that only grows, so one that is told twice counts once; and what Redis has lost comes back with
-- the next.
local total = tonumber(redis.call('GET', KEYS[1]) or '0')
local told = tonumber(redis.call('GET', KEYS[2]) or '0')
local more = tonumber(ARGV[1]) - told
if more > 0 then
    total = math.min(total + more, tonumber(ARGV[2]))
    redis.call('SET', KEYS[1], string.format('%.0f', total), 'EX', ARGV[3])
    redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[4])
end
return string.format('%.0f', total)
