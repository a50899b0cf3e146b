-- unlist: an ended task that is deleted or runs again before its time is over is no longer counted.
-- needs: base
local function unlist(id, state)
  if state == 'dead' then return end
  if call('ZREM', K .. 'kept:' .. state, id) == 1 then
    call('ZREM', K .. 'kept_until:' .. state, id)
    return
  end
  local f = call('HMGET', T .. id, 'end', 'done')
  local at = tonumber(f[1] or string.match(f[2] or '', '^%d+'))
  if not at then return end
  local group = state .. ':' .. int(call('PEXPIRETIME', T .. id) - at)
  if call('HEXISTS', K .. 'ended', group) == 1 then call('ZADD', K .. 'left:' .. group, int(at), id .. '@' .. int(at)) end
end
