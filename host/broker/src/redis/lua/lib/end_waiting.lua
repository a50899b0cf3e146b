-- end_waiting: ends a task that no attempt ended, with an error.
-- needs: base, end_task
local function end_waiting(id, state, ttl, kind, message)
  local error = string.format('{"kind":"%s","message":"%s"}', kind, message)
  end_task(open_ends(ttl), id, state, 'end', int(now), 'error', error)
end
