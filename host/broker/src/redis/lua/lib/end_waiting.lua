-- end_waiting: ends a task that no attempt ended. The caller takes it out of its place.
-- needs: base, settle, list_ends, publish
-- The end is listed first: a repeated call finds the task ended, and does not come here again.
local function end_waiting(id, state, ttl, kind, message)
  local own = call('HGET', T .. id, 'ttl')
  if state == 'dead' then call('ZADD', K .. 'dead', now, id) elseif kept_for(own, ttl) == ttl then list_ends({ [state] = { id } }, ttl) end
  local error = string.format('{"kind":"%s","message":"%s"}', kind, message)
  call('HSET', T .. id, 'state', state, 'end', int(now), 'error', error)
  settle(id, state, ttl)
  publish({ id }, state)
end
