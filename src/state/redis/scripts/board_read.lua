-- KEYS[1] the board. Returns {version, clock in ms, body or false}.
local time = redis.call('TIME')
local board = redis.call('HMGET', KEYS[1], 'version', 'seen', 'ahead', 'body')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + (tonumber(board[3]) or 0)
return {tonumber(board[1]) or 0, math.max(now, tonumber(board[2]) or 0), board[4]}
