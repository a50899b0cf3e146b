-- cancel_task: a waiting task ends at once. The worker of a running task is told on the control channel.
-- needs: base, place, kept_until, end_waiting
-- RETURNS 'unknown', 'cancelled', 'asked', or 'ended' and the state
local function cancel_task(id, queue, channel, ttl)
  local f = call('HMGET', T .. id, 'task', 'state', 'done')
  if is_gone(f[2], f[3]) or (not f[1] and call('EXISTS', T .. id) == 0) then return 'unknown' end
  if f[2] then return 'ended ' .. f[2] end
  local name = f[1] or ''
  local state, key = place(id, name)
  if state then
    end_waiting(id, 'cancelled', ttl, 'cancelled', 'cancelled before it started')
    leave_place(state, key, id, name)
    call('ZREM', K .. 'expires', id)
    return 'cancelled'
  end
  call('SADD', K .. 'cancelled', id)
  call('PUBLISH', channel, queue .. ' ' .. id)
  return 'asked'
end
