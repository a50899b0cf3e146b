-- is_known: whether an id is taken. A task whose time is over is removed here, if no sweep came to it yet.
-- needs: base, kept_until, unlist
local function is_known(id)
  local f = call('HMGET', T .. id, 'state', 'done')
  if not is_gone(f[1], f[2]) then return call('EXISTS', T .. id) == 1 end
  unlist(id, f[1])
  call('UNLINK', T .. id, K .. 'log:' .. id)
  return false
end
