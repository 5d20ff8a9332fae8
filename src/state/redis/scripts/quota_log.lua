-- The state and the log of a quota, and the rules in force. `quota.lua` follows in the same script, and decides.
--
-- KEYS: the state (hash), the log (ring of permits). ARGV: now in microseconds (empty: the server's clock), the policy,
-- the ask, the channel, the quota's name. Numbers in the state are written in full: Lua's own way keeps 14 digits.
--
-- The log holds one entry per permit in the order of their times: time, tokens, when the bucket was to be full before
-- it (-1: it was full), number. Positions count up for ever; the entry at `p` lies at `p % cap`.

local state, log = KEYS[1], KEYS[2]
local policy, ask = cjson.decode(ARGV[2]), cjson.decode(ARGV[3])

local ENTRY, SIZE = '<dddd', 32
local MINUTE, HOUR = 60e6, 3600e6
local REFILL_MAX = 10000
-- Every node looks once a second: when nobody has for so long, nobody could.
local AWAY = 1.5e6

local FIELDS = { 'seen', 'raw', 'first', 'head', 'next', 'from', 'sum', 'full', 'pause', 'hold', 'epoch', 'factor',
  'header', 'unexplained', 'changed', 'cap', 'back', 'empty' }
local birth, rules_before, created, remembered
local s = {}

local function load_state()
  local held = redis.call('HMGET', state, 'birth', 'rules', unpack(FIELDS))
  birth, rules_before = held[1], held[2]
  for i, name in ipairs(FIELDS) do s[name] = tonumber(held[i + 2] or 0) end
  local torn = birth and s.head > s.first and redis.call('EXISTS', log) == 0
  -- A copy of a while ago has taken over: what was given since is unknown here, so it is no better than an empty one.
  local behind = birth == ask.birth and (ask.epoch > s.epoch or ask.next > s.next)
  if birth and not torn and not behind then return end
  redis.call('DEL', state, log)
  rules_before = nil
  for _, name in ipairs(FIELDS) do s[name] = 0 end
  created, s.factor, s.full, s.cap = true, 1, -1, policy.entries
end

-- Time never goes back. While the server's clock is behind (it was set back), the spans between turns count instead.
local function tell_time()
  local time = redis.call('TIME')
  local raw = tonumber(ARGV[1]) or time[1] * 1e6 + time[2]
  local ahead, passed = s.seen - s.raw, math.max(0, raw - s.raw)
  s.seen = passed >= ahead and math.max(s.seen, raw) or s.seen + passed
  s.raw = raw
  if created or passed > AWAY then s.back = s.seen end
  return s.seen
end

-- The log.

local function read(p)
  local at = (p % s.cap) * SIZE
  return struct.unpack(ENTRY, redis.call('GETRANGE', log, at, at + SIZE - 1))
end

local function write(p, ...) redis.call('SETRANGE', log, (p % s.cap) * SIZE, struct.pack(ENTRY, ...)) end

-- The entries from `p` on, as a list of lists.
local function read_from(p)
  local entries = {}
  while p < s.head do
    local slot = p % s.cap
    local count = math.min(s.head - p, s.cap - slot, 512)
    local block = redis.call('GETRANGE', log, slot * SIZE, (slot + count) * SIZE - 1)
    for i = 0, count - 1 do entries[#entries + 1] = { struct.unpack(ENTRY, block, i * SIZE + 1) } end
    p = p + count
  end
  return entries
end

local rules, bucket, announced

local function filled(full, at)
  if not bucket then return -1 end
  -- Nothing was regained before it was known to be empty, and no bucket is emptier than that.
  at = math.max(at, s.empty)
  return math.min(math.max(full, at) + bucket.interval, at + bucket.capacity * bucket.interval)
end

-- When the bucket was to be full before the first entry.
local function full_at_first()
  return bucket and s.empty > 0 and s.empty + bucket.capacity * bucket.interval or -1
end

-- Writes entries from `p` on, the last of all, and fills the bucket anew with them.
local function write_from(p, entries, full)
  s.full, s.head = full, p + #entries
  local i = 1
  while i <= #entries do
    local slot = (p + i - 1) % s.cap
    local packed = {}
    for j = i, i + math.min(#entries - i + 1, s.cap - slot, 512) - 1 do
      local entry = entries[j]
      packed[#packed + 1] = struct.pack(ENTRY, entry[1], entry[2], s.full, entry[4])
      s.full = filled(s.full, entry[1])
    end
    redis.call('SETRANGE', log, slot * SIZE, table.concat(packed))
    i = i + #packed
  end
end

local function remove(p)
  local at, tokens, full = read(p)
  if p < s.from then s.from = s.from - 1 else s.sum = s.sum - tokens end
  write_from(p, read_from(p + 1), full)
end

local function find(number)
  local guess = s.head - (s.next - number)
  local low, high = s.first, s.head - 1
  if guess < low or guess > high then guess = low end
  while low <= high do
    local at, tokens, full, found = read(guess)
    if found == number then return guess, tokens, at, full end
    if found < number then low = guess + 1 else high = guess - 1 end
    guess = math.floor((low + high) / 2)
  end
end

-- The rules.

local function lowered(limit) return math.min(limit, math.max(1, math.floor(limit * s.factor + 1e-6))) end

local function rule(allowed, configured, span)
  return allowed > 0 and span > 0 and { limit = lowered(allowed), configured = configured, span = span } or nil
end

local function choose_bucket(minute, hour)
  local pace = policy.minute > 0 and minute
  if not pace then
    for _, window in ipairs(rules.windows) do
      local told, best_told = window.configured == 0, pace and pace.configured == 0
      local better = not pace or (best_told and not told) or (best_told == told and window.span < pace.span)
      if better then pace = window end
    end
  end
  local paced = policy.pace_hour and hour
  if not pace or (policy.burst == 0 and not paced) then return nil end
  local interval = math.ceil(pace.span / pace.limit)
  if paced then interval = math.max(interval, math.ceil(hour.span / hour.limit)) end
  return { capacity = math.max(policy.burst, 1), interval = interval }
end

local function make_rules()
  rules = { windows = {}, longest = 0, shortest = nil }
  local allowed = policy.minute
  if s.header > 0 then allowed = allowed == 0 and s.header or math.min(allowed, s.header) end
  local minute, hour = rule(allowed, policy.minute, MINUTE), rule(policy.hour, policy.hour, HOUR)
  local function add(window) if window then table.insert(rules.windows, window) end end
  for _, window in ipairs({ minute or false, hour or false }) do add(window) end
  for _, window in ipairs(policy.windows) do add(rule(window[1], window[1], window[2])) end
  rules.tokens = rule(policy.tokens, policy.tokens, MINUTE)
  rules.name = ''
  for _, window in ipairs(rules.windows) do
    rules.longest = math.max(rules.longest, window.span)
    rules.shortest = math.min(rules.shortest or window.span, window.span)
    rules.name = rules.name .. window.limit .. '/' .. window.span .. ' '
  end
  if rules.tokens then rules.longest = math.max(rules.longest, MINUTE) end
  bucket = choose_bucket(minute, hour)
  rules.name = rules.name .. (rules.tokens and rules.tokens.limit or 0)
  if bucket then rules.name = rules.name .. ' ' .. bucket.capacity .. '/' .. bucket.interval end
end

-- Puts the rules in force; returns whether they are others.
local function obey()
  make_rules()
  if policy.entries > s.cap then
    local entries = read_from(s.first)
    s.cap = policy.entries
    write_from(s.first, entries, full_at_first())
  end
  if rules.name == rules_before then return false end
  if rules_before then
    local p = math.max(s.first, s.head - REFILL_MAX)
    write_from(p, read_from(p), full_at_first())
  end
  rules_before = rules.name
  return true
end
