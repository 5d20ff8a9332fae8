-- Begins a turn. ARGV: conversation, owner, now, customer or '', holder or '', heard, the dead owner or '' and its
-- fence, seconds to keep, channel; then message and replay of each life.
local id, owner, now = ARGV[1], ARGV[2], ARGV[3]
local conversation = key('v', id)
local held = redis.call('HMGET', conversation, 'owner', 'fence')
local foreign = held[1] and held[1] ~= owner
-- By the clock, so that a fence also grows when everything was lost, and tells when the claim was made; microseconds
-- fit into a double for 200 years.
local time = redis.call('TIME')
if foreign and not (held[1] == ARGV[7] and held[2] == ARGV[8]) then
    local age = (time[1] * 1000000 + time[2] - held[2]) / 1000
    return {'held', held[1], held[2], string.format('%.0f', math.max(age, 0))}
end
local fence = math.max(tonumber(held[2] or 0) + 1, time[1] * 1000000 + time[2])
fence = string.format('%.0f', fence)
redis.call('HSET', conversation, 'owner', owner, 'fence', fence)
if ARGV[4] ~= '' then
    redis.call('HSET', conversation, 'user', ARGV[4])
    touch(id, now)
end
if ARGV[5] ~= '' and hear(conversation, ARGV[5], ARGV[6]) then
    redis.call('PUBLISH', ARGV[10], ARGV[5] .. '\n' .. ARGV[6] .. '\n' .. id)
end
redis.call('EXPIRE', conversation, ARGV[9])
local answer = {'ours', fence, foreign and '1' or '0', born(now)}
for _, field in ipairs(remembered(conversation)) do
    answer[#answer + 1] = field
end
for i = 11, #ARGV, 2 do
    local word, body = recall(ARGV[i], ARGV[i + 1])
    answer[#answer + 1] = word
    answer[#answer + 1] = body
end
return answer
