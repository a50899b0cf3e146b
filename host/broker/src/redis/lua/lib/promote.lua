-- promote: makes delayed and retrying tasks ready when they are due, at most 500 a call. Returns how many.
-- needs: base, slices, rank, is_open
local function promote()
  local due = call('ZRANGEBYSCORE', K .. 'scheduled', '-inf', int(now), 'LIMIT', 0, 500)
  if #due == 0 then return 0 end
  local seq = call('HINCRBY', K .. 'control', 'seq', #due) - #due
  call('HINCRBY', K .. 'control', 'spare', #due)
  local ready = {}
  for i, id in ipairs(due) do
    local f = call('HMGET', T .. id, 'task', 'state', 'priority')
    if is_open(id, f[1], f[2]) then
      call('HSET', T .. id, 'seq', int(seq + i))
      ready[#ready + 1] = rank(f[3], seq + i)
      ready[#ready + 1] = id
    end
  end
  slices(ready, function(...) call('ZADD', K .. 'ready', ...) end)
  call('ZREM', K .. 'scheduled', unpack(due))
  return #due
end
