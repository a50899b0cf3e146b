-- expire_waiting: cancels tasks that did not start by their `expires`, at most 200 a call. Returns how many it looked at.
-- needs: base, place, end_waiting
local function expire_waiting(ttl)
  local late = call('ZRANGEBYSCORE', K .. 'expires', '-inf', int(now), 'LIMIT', 0, 200)
  for _, id in ipairs(late) do
    local f = call('HMGET', T .. id, 'task', 'state', 'tries', 'expires')
    if f[1] and not f[2] and not f[3] and f[4] then
      local state, key = place(id, f[1])
      if state then
        end_waiting(id, 'cancelled', ttl, 'expired', 'not started by the time it expires')
        leave_place(state, key, id, f[1])
      end
    end
    call('ZREM', K .. 'expires', id)
  end
  return #late
end
