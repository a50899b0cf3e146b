-- unlist: an ended task that leaves, or runs again, before a sweep took it is no longer counted, and no sweep removes its id unseen.
-- needs: base, kept_until
local function unlist(id, state)
  if state == 'dead' then return end
  if call('ZREM', K .. 'kept:' .. state, id) == 1 then
    call('ZREM', K .. 'kept_until:' .. state, id)
    return
  end
  local f = call('HMGET', T .. id, 'done', 'end')
  local gone, at = kept_until(f[1])
  if not gone then gone, at = call('PEXPIRETIME', T .. id), tonumber(f[2] or string.match(f[1] or '', '^%d+')) end
  if not at then return end
  local group = state .. ':' .. int(gone - at)
  if call('HEXISTS', K .. 'ended', group) == 1 then call('ZADD', K .. 'left:' .. group, int(at), id .. '@' .. int(at)) end
end
