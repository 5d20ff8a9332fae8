-- One turn of a node at the quota of a service. The rules are those of guard/limiter, and a contract runs on both.
-- `quota_log.lua` lies before this in the same script.

local SECOND = 1e6
-- guard/limiter/learning.rs says why.
local PAUSE_MAX, PAUSE_MIN, JITTER, DECREASE, INCREASE, FACTOR_MIN = 600e6, 1e6, 0.2, 0.7, 0.05, 0.05
-- When the quota is back nothing is given for so long after each node that was alone has told what it has done: the
-- next one tries every half second. A node that was alone while others were not holds up nobody: SETTLED after the
-- quota was back, all who could have told.
local RESEED, SETTLED = 3e6, 10e6
-- As long after a first use, so that one who remembers can say so: he looks within a second.
local FIRST_USE = 1.2e6
local FORGET_MAX, SHIFT_MAX = 256, 4096

-- Deciding.

local function forget(now)
  if s.head == s.first then return end
  local kept = rules.longest + policy.validity
  if read(s.head - 1) + kept <= now then s.first, s.from, s.sum = s.head, s.head, 0 end
  for _ = 1, math.min(FORGET_MAX, s.head - s.first) do
    local at, tokens = read(s.first)
    if at + kept > now then return end
    if s.from == s.first then s.from, s.sum = s.from + 1, s.sum - tokens end
    s.first = s.first + 1
  end
end

local function fit(tokens)
  local room = math.max(0, rules.tokens.limit - tokens)
  while s.sum > room do
    local _, gone = read(s.from)
    s.sum, s.from = s.sum - gone, s.from + 1
  end
  while s.from > s.first do
    local _, earlier = read(s.from - 1)
    if s.sum + earlier > room then return end
    s.sum, s.from = s.sum + earlier, s.from - 1
  end
end

local function free_again(p, span) return p < s.first and 0 or read(p) + span + policy.validity end

local function earliest(floor, tokens)
  local at = floor
  if s.head > s.first then at = math.max(at, (read(s.head - 1))) end
  for _, window in ipairs(rules.windows) do at = math.max(at, free_again(s.head - window.limit, window.span)) end
  if rules.tokens then
    fit(tokens)
    at = math.max(at, free_again(s.from - 1, rules.tokens.span))
  end
  local held = s.head - s.first
  if bucket and (held >= bucket.capacity or s.empty > 0) then
    local p, poured = s.head - bucket.capacity + 1, s.full
    if held < bucket.capacity then
      poured = s.empty + (held + 1) * bucket.interval
    elseif p < s.head then
      poured = select(3, read(p))
    end
    if poured >= 0 then at = math.max(at, poured + policy.validity) end
  end
  local oldest = s.head - policy.entries
  local room = oldest >= s.first and free_again(oldest, rules.longest) or nil
  return room and math.max(at, room) or at, room ~= nil
end

local function append(at, tokens)
  local number = s.next
  s.next = number + 1
  if rules.longest == 0 then return number end
  write(s.head, at, tokens, s.full, number)
  s.head, s.sum, s.full = s.head + 1, s.sum + tokens, filled(s.full, at)
  return number
end

local function renew(now)
  s.epoch, announced = s.epoch + 1, true
  while s.head > s.first and read(s.head - 1) > now + policy.validity do remove(s.head - 1) end
end

local function pause(now, till)
  if till <= math.max(now, s.pause) then return end
  s.pause = till
  renew(now)
end

local function lower(now)
  s.factor, s.changed = math.max(s.factor * DECREASE, FACTOR_MIN), now
  obey()
end

-- Gives nothing until the others can have told what they have done, and takes back what was given ahead.
local function reseed(now)
  if now - s.back > SETTLED then return end
  s.hold = math.max(s.hold, now + RESEED)
  if s.head > s.first and read(s.head - 1) > now + policy.validity then renew(now) end
end

-- Adds calls that were made beside the quota at their places.
local function insert(now, calls)
  local merged, tokens, next_call, before = {}, 0, 1, -1
  local function add(at, cost, number)
    merged[#merged + 1], before = { at, cost, -1, number }, number
  end
  local function add_calls(till)
    while calls[next_call] and now - calls[next_call][1] <= till do
      -- Its number lies between two others, so that nobody can name it.
      add(now - calls[next_call][1], calls[next_call][2], math.floor(before) + 0.5)
      next_call = next_call + 1
    end
  end
  for _, entry in ipairs(read_from(s.first)) do
    add_calls(entry[1])
    add(entry[1], entry[2], entry[4])
  end
  add_calls(math.huge)
  while #merged > s.cap do table.remove(merged, 1) end
  for _, entry in ipairs(merged) do tokens = tokens + entry[2] end
  s.from, s.sum = s.first, tokens
  -- Whoever is told the next number sees by it whether these have been forgotten.
  s.next = s.next + #calls
  write_from(s.first, merged, full_at_first())
end

-- Requests and tokens of one window: used by now, and reserved ahead of it.
local function use_of(now, span)
  local reserved, used_tokens, reserved_tokens = 0, 0, 0
  local low, high, oldest = s.first, s.head, now - span - policy.validity
  while low < high do
    local middle = math.floor((low + high) / 2)
    if read(middle) > oldest then high = middle else low = middle + 1 end
  end
  local used, p = s.head - low, s.head - 1
  while p >= low and read(p) > now do p, reserved = p - 1, reserved + 1 end
  if rules.tokens and span == rules.tokens.span then
    for _, entry in ipairs(read_from(low)) do
      if entry[1] > now then reserved_tokens = reserved_tokens + entry[2] else used_tokens = used_tokens + entry[2] end
    end
  end
  return used - reserved, reserved, used_tokens, reserved_tokens
end

local function uses(now)
  local list = {}
  local function add(kind, span, configured, limit, used, reserved)
    list[#list + 1] = { kind = kind, per_ms = math.floor(span / 1000), configured = configured, limit = limit,
      used = used, reserved = reserved }
  end
  for _, window in ipairs(rules.windows) do
    local used, reserved = use_of(now, window.span)
    add('requests', window.span, window.configured, window.limit, used, reserved)
  end
  if rules.tokens then
    local _, _, used, reserved = use_of(now, rules.tokens.span)
    add('tokens', rules.tokens.span, rules.tokens.configured, rules.tokens.limit, used, reserved)
  end
  if bucket then
    local drawn = math.ceil(math.max(0, s.full - now) / bucket.interval)
    add('burst', bucket.interval, bucket.capacity, bucket.capacity, math.min(drawn, bucket.capacity), 0)
  end
  return list
end
-- What a node may tell.

local take_in = {}

function take_in.void(_, number)
  local p = find(number)
  if p and s.head - p <= SHIFT_MAX then remove(p) end
end

function take_in.settle(_, told)
  local p, estimate, at, full = find(told[1])
  if not p then return end
  write(p, at, told[2], full, told[1])
  if p >= s.from then s.sum = s.sum - estimate + told[2] end
end

function take_in.throttled(now, told)
  local asked, chance = told[1], told[2]
  local new_incident = now >= s.pause
  if asked > 0 then
    if new_incident then lower(now) end
    pause(now, now + math.min(asked, PAUSE_MAX))
  elseif new_incident then
    local span = math.min(PAUSE_MIN * 2 ^ math.min(s.unexplained, 16), PAUSE_MAX)
    s.unexplained = s.unexplained + 1
    lower(now)
    pause(now, now + math.floor(math.min(span * (1 + JITTER * chance), PAUSE_MAX) + 0.5))
  end
end

function take_in.succeeded(now)
  s.unexplained = 0
  local every = math.max(SECOND, math.min(rules.shortest or MINUTE, MINUTE))
  local steps = math.floor(math.floor((now - s.changed) / 1000) / math.floor(every / 1000))
  if s.factor >= 1 or steps == 0 then return end
  s.factor, s.changed = math.min(1, s.factor + INCREASE * steps), now
  obey()
end

function take_in.limit_header(now, told)
  if told == 0 then return end
  local lower_than_before = s.header == 0 or told < s.header
  s.header = told
  if obey() and lower_than_before then renew(now) end
end

function take_in.pause(now, span) pause(now, now + span) end

function take_in.made(now, told)
  local before = cjson.decode(redis.call('HGET', state, 'told') or '{}')
  local day, latest, calls = math.floor(now / 86400e6), before[told.run] and before[told.run][1] or -1, {}
  for _, call in ipairs(told.calls) do
    if call[3] > latest then calls[#calls + 1], latest = call, call[3] end
  end
  if #calls > 0 then
    -- Runs that told nothing since yesterday are over.
    for run, of in pairs(before) do if of[2] < day - 1 then before[run] = nil end end
    before[told.run] = { latest, day }
    redis.call('HSET', state, 'told', cjson.encode(before))
    insert(now, calls)
  end
  reseed(now)
end

-- The turn.

load_state()
local now = tell_time()
local knows, remembers = ask.birth ~= '' and ask.birth ~= '?', ask.birth ~= ''
local lost = created and remembers or not created and knows and ask.birth ~= birth
if created then
  local before = birth or ''
  birth = string.format('%.0f', now)
  if birth == before then birth = birth .. '+' end
  s.hold = now + (remembers and RESEED or FIRST_USE)
end
obey()
if lost and now - s.back <= SETTLED then
  -- What was drawn from the bucket nobody knows.
  s.empty = now
  write_from(s.first, read_from(s.first), full_at_first())
  reseed(now)
end
forget(now)
local told = { birth = birth, tokens = 0, free = 0 }
if lost then
  told.lost = true
else
  for _, note in ipairs(ask.notes) do
    for what, value in pairs(note) do if take_in[what] then take_in[what](now, value) end end
  end
  local tokens = ask.tokens
  if rules.tokens then tokens = math.min(tokens, rules.tokens.limit) end
  local grants = {}
  told.free = math.max(0, s.hold - now)
  for n = 1, told.free > 0 and 0 or ask.want do
    local at, no_room = earliest(math.max(now, s.pause), tokens)
    if no_room or at - now > ask.max_wait or (n > 1 and at > now) then
      told.free = at - now
      break
    end
    grants[n] = { at - now, append(at, tokens) }
  end
  if #grants > 0 then told.grants = grants end
  told.tokens = tokens
end

if ask.look and (#rules.windows > 0 or rules.tokens) then told.uses = uses(now) end
told.epoch, told.next, told.pause = s.epoch, s.next, math.max(0, s.pause - now)

local written = { 'birth', birth, 'rules', rules.name }
for _, name in ipairs(FIELDS) do
  written[#written + 1] = name
  written[#written + 1] = name == 'factor' and string.format('%.17g', s[name]) or string.format('%.0f', s[name])
end
redis.call('HSET', state, unpack(written))
if announced then redis.call('PUBLISH', ARGV[4], ARGV[5] .. ' ' .. birth .. ' ' .. string.format('%.0f', s.epoch)) end
return cjson.encode(told)
