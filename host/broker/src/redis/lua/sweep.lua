-- sweep: trims the dead set, and removes ended tasks whose time is over. Ends waiting tasks that expired, or whose names no worker offered for too long.
-- KEYS    1 th:{Q}:
-- ARGV    1 JSON: ttl, the result_ttl in ms; dead_count; dead_age in ms; unknown_ttl, the unknown_task_ttl in ms; unknown_for, the same in
--         words; offered, the names that workers offer
-- RETURNS whether there is more to do
-- needs: base, stub, expire_waiting, end_waiting, place, sweep_ended
local bounds, more = cjson.decode(ARGV[1]), 0
local ttl = bounds.ttl
local function forget(ids)
  for _, id in ipairs(ids) do
    local f = call('HMGET', T .. id, 'state', 'child')
    if f[1] == 'dead' then
      if f[2] then leave_stub(id) end
      call('UNLINK', T .. id, K .. 'log:' .. id)
    end
    call('ZREM', K .. 'dead', id)
  end
  if #ids == 200 then more = 1 end
end
local over = call('ZCARD', K .. 'dead') - bounds.dead_count
if over > 0 then forget(call('ZRANGE', K .. 'dead', 0, math.min(over, 200) - 1)) end
forget(call('ZRANGEBYSCORE', K .. 'dead', '-inf', int(now - bounds.dead_age), 'LIMIT', 0, 200))
if expire_waiting(ttl) == 200 then more = 1 end

-- The time of a name starts with the first sweep that finds it missing. It starts anew if no worker swept for a while.
local offered, nobody, limit = {}, K .. 'unoffered', bounds.unknown_ttl
for _, name in ipairs(bounds.offered) do offered[name] = true end
for _, name in ipairs(call('HRANDFIELD', nobody, 1000)) do
  if offered[name] or call('SISMEMBER', K .. 'parked', name) == 0 then call('HDEL', nobody, name) end
end
for _, name in ipairs(call('SRANDMEMBER', K .. 'parked', 1000)) do
  if not offered[name] then
    call('HSETNX', nobody, name, int(now))
    local since, late = tonumber(call('HGET', nobody, name)) or now, {}
    if since <= now - limit then
      late = call('ZRANGEBYSCORE', K .. 'parked_at:' .. name, '-inf', int(now - limit), 'LIMIT', 0, 200)
    end
    for _, id in ipairs(late) do
      local f = call('HMGET', T .. id, 'task', 'state')
      if f[1] and not f[2] then
        local message = 'no plugin offered `' .. string.gsub(name, '[^%w_.:/%-]', '?') .. '` for ' .. bounds.unknown_for .. '; drop one in, then retry the task'
        end_waiting(id, 'dead', ttl, 'unknown-task', message)
      end
      leave_place('parked', K .. 'parked:' .. name, id, name)
    end
    if #late == 200 then more = 1 end
  end
  -- Another program wrote this name.
  if call('EXISTS', K .. 'parked:' .. name) == 0 then call('SREM', K .. 'parked', name) end
end
call('PEXPIRE', nobody, int(math.max(60000, limit / 4)))

local most = 1000
for _, group in ipairs(call('HKEYS', K .. 'ended')) do
  if most > 0 then most = most - sweep_ended(group, most) end
  local stream, left = K .. 'ended:' .. group, K .. 'left:' .. group
  local oldest = int(math.max(now - (tonumber(string.match(group, '%d+$')) or 0), 0))
  local first = call('XRANGE', stream, '-', '+', 'COUNT', '1')[1]
  if not first then
    call('UNLINK', stream, left)
    call('HDEL', K .. 'ended', group)
  else
    oldest = int(math.min(tonumber(oldest), tonumber(first[2][2]) or 0))
    local over = call('ZCOUNT', left, '-inf', '(' .. oldest)
    if over > 0 then call('ZREMRANGEBYRANK', left, '0', int(math.min(over, 1000) - 1)) end
    if over > 1000 then more = 1 end
  end
end
if most <= 0 then more = 1 end
for _, state in ipairs({ 'succeeded', 'cancelled' }) do
  local over = call('ZRANGEBYSCORE', K .. 'kept_until:' .. state, '-inf', '(' .. int(now), 'LIMIT', '0', '500')
  if #over > 0 then
    call('ZREM', K .. 'kept:' .. state, unpack(over))
    call('ZREM', K .. 'kept_until:' .. state, unpack(over))
  end
  if #over == 500 then more = 1 end
end
-- Ended flows whose time is over.
for _, id in ipairs(call('ZRANGE', K .. 'flows_ended', '0', '199')) do
  if call('EXISTS', K .. 'flow:' .. id) == 0 then call('ZREM', K .. 'flows_ended', id) end
end
-- The first builds listed ends in this stream. Nothing reads it any more.
call('UNLINK', K .. 'events')
return more
