-- sweep: the dead set keeps its bounds, what has not started in time is cancelled, what nobody offered for long is dead.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 dead_count   3 dead_age ms   4 unknown_task_ttl ms   5 the same in words   6… names that are offered
-- RETURNS whether there is more to do
local ttl, more = tonumber(ARGV[1]), 0
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
local over = call('ZCARD', K .. 'dead') - tonumber(ARGV[2])
if over > 0 then forget(call('ZRANGE', K .. 'dead', 0, math.min(over, 200) - 1)) end
forget(call('ZRANGEBYSCORE', K .. 'dead', '-inf', int(now - ARGV[3]), 'LIMIT', 0, 200))
if expire(ttl) == 200 then more = 1 end

local offered = {}
for i = 6, #ARGV do offered[ARGV[i]] = true end
for _, name in ipairs(call('SRANDMEMBER', K .. 'parked', 1000)) do
  if not offered[name] then
    local late = call('ZRANGEBYSCORE', K .. 'parked_at:' .. name, '-inf', int(now - ARGV[4]), 'LIMIT', 0, 200)
    for _, id in ipairs(late) do
      local f = call('HMGET', T .. id, 'task', 'state')
      if f[1] and not f[2] then
        local message = 'no plugin offered `' .. name .. '` for ' .. ARGV[5] .. '; drop one in, then retry the task'
        end_waiting(id, 'dead', ttl, 'unknown-task', message)
      end
      leave_place('parked', K .. 'parked:' .. name, id, name)
    end
    if #late == 200 then more = 1 end
  end
end
return more
