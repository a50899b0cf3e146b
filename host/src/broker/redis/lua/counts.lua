-- counts: a queue at a glance. Of the newest 1,000 endings each is looked at, of older ones the feed is believed.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms
-- RETURNS {scheduled, ready, parked, running, succeeded, dead, cancelled, ms the oldest ready task waits or -1, paused}
local parked, running = 0, 0
for _, name in ipairs(call('SMEMBERS', K .. 'parked')) do parked = parked + call('ZCARD', K .. 'parked:' .. name) end
for _, inc in ipairs(call('ZRANGE', K .. 'workers', 0, -1)) do running = running + call('SCARD', K .. 'held:' .. inc) end

local ended, seen, looks = { succeeded = 0, cancelled = 0 }, {}, 0
for _, entry in ipairs(call('XREVRANGE', K .. 'events', '+', '-')) do
  local is_kept = tonumber(string.match(entry[1], '^%d+')) + ARGV[1] > now
  for i = 1, #entry[2], 2 do
    local state = entry[2][i]
    if ended[state] then
      for id in string.gmatch(entry[2][i + 1], '%S+') do
        if not seen[id] then
          seen[id] = true
          looks = looks + 1
          local is = state
          if looks <= 1000 then is = call('HGET', T .. id, 'state') elseif not is_kept then is = nil end
          if is == state then ended[state] = ended[state] + 1 end
        end
      end
    end
  end
end

-- The oldest of each priority is the first of its band.
local oldest = -1
for band = 0, 9 do
  local first = call('ZRANGEBYSCORE', K .. 'ready', int(band * 1e14), '(' .. int((band + 1) * 1e14), 'LIMIT', 0, 1)[1]
  local at = first and tonumber(call('HGET', T .. first, 'at') or nil)
  if at then oldest = math.max(oldest, now - at) end
end
return {
  call('ZCARD', K .. 'scheduled'), call('ZCARD', K .. 'ready'), parked, running, ended.succeeded,
  call('ZCARD', K .. 'dead'), ended.cancelled, oldest, call('HGET', K .. 'control', 'paused') and 1 or 0,
}
