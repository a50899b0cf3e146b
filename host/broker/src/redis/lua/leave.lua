-- leave: ends an incarnation. Tasks that it still holds are ready again at their old places, uncounted. At most 500 a call.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation
-- RETURNS whether all is done
-- needs: base, member, is_open, end_waiting, rank, wake
local held = K .. 'held:' .. ARGV[2]
if not call('ZSCORE', K .. 'workers', ARGV[2]) then return 1 end
local members, ready = call('SRANDMEMBER', held, 500), {}
for _, member in ipairs(members) do
  local id = id_in(member)
  local f = call('HMGET', T .. id, 'task', 'state', 'priority', 'seq', 'expires', 'tries')
  if is_open(id, f[1], f[2]) then
    if call('SISMEMBER', K .. 'cancelled', id) == 1 then
      end_waiting(id, 'cancelled', tonumber(ARGV[1]), 'cancelled', 'cancelled while it ran')
    else
      if tonumber(f[5]) and not f[6] then call('ZADD', K .. 'expires', f[5], id) end
      ready[#ready + 1] = rank(f[3], tonumber(f[4]) or 0)
      ready[#ready + 1] = id
    end
  end
end
if #ready > 0 then
  call('ZADD', K .. 'ready', unpack(ready))
  wake()
end
if #members > 0 then call('SREM', held, unpack(members)) end
if call('EXISTS', held) == 1 then return 0 end
call('ZREM', K .. 'workers', ARGV[2])
return 1
