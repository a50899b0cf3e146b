-- counts: how many tasks of a queue are in each state. The cost does not grow with the number of ended tasks.
-- KEYS    1 th:{Q}:
-- RETURNS {scheduled, ready, parked, running, succeeded, dead, cancelled, ms the oldest ready task waits or -1, paused,
--         tasks that were ever enqueued, that ever succeeded, died and were cancelled}
-- needs: base, kept_of, claims_of
local parked, running = 0, 0
for _, name in ipairs(call('SMEMBERS', K .. 'parked')) do parked = parked + call('ZCARD', K .. 'parked:' .. name) end
for _, inc in ipairs(call('ZRANGE', K .. 'workers', 0, -1)) do running = running + #held_by(inc) end

local ended = {}
for _, state in ipairs({ 'succeeded', 'cancelled' }) do
  ended[state] = call('ZCOUNT', K .. 'kept_until:' .. state, int(now), '+inf')
end
local groups = call('HGETALL', K .. 'ended')
for i = 1, #groups, 2 do
  local state = string.match(groups[i], '^%a+')
  if ended[state] then ended[state] = ended[state] + kept_of(groups[i], tonumber(groups[i + 1]) or 0) end
end

-- The oldest task of each priority is the first of its range of scores.
local oldest = -1
for tier = 0, 9 do
  local first = call('ZRANGEBYSCORE', K .. 'ready', int(tier * 1e14), '(' .. int((tier + 1) * 1e14), 'LIMIT', 0, 1)[1]
  local at = first and tonumber(call('HGET', T .. first, 'at') or nil)
  if at then oldest = math.max(oldest, now - at) end
end
local control = call('HMGET', K .. 'control', 'paused', 'seq', 'spare', 'succeeded', 'dead', 'cancelled')
local function total(n) return math.max(tonumber(control[n] or nil) or 0, 0) end
return {
  call('ZCARD', K .. 'scheduled'), call('ZCARD', K .. 'ready'), parked, running, ended.succeeded,
  call('ZCARD', K .. 'dead'), ended.cancelled, oldest, control[1] and 1 or 0,
  int(math.max(total(2) - (tonumber(control[3] or nil) or 0), 0)), int(total(4)), int(total(5)), int(total(6)),
}
