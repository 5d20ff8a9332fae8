-- KEYS[1] the board; ARGV: version expected, body, clock in ms at which it was decided, channel or ''.
-- Returns {1, version, clock} when written, else {0, version, clock, body or false}.
local time = redis.call('TIME')
local board = redis.call('HMGET', KEYS[1], 'version', 'seen', 'ahead', 'body')
local version, seen, ahead = tonumber(board[1]) or 0, tonumber(board[2]) or 0, tonumber(board[3]) or 0
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ahead

-- The clock never goes back: not when the server's does, and not behind what a node has decided.
local floor = math.max(seen, tonumber(ARGV[3]))
if now < floor then
  ahead = ahead + floor - now
  now = floor
end
if version ~= tonumber(ARGV[1]) then
  return {0, version, now, board[4]}
end

-- Taken from the clock, so that a board that was lost does not reach an old version again with other contents.
version = math.max(version + 1, now)
local put = function(number) return string.format('%.0f', number) end
redis.call('HSET', KEYS[1], 'version', put(version), 'seen', put(now), 'ahead', put(ahead), 'body', ARGV[2])
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[4], put(version) .. ' ' .. put(now) .. ' ' .. ARGV[2])
end
return {1, version, now}
