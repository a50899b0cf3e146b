-- leave: ends an incarnation. Tasks that it still holds are ready again at their old places, uncounted. At most 500 a call.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation
-- RETURNS whether all is done
-- needs: base, places, claims_of, is_running, end_waiting, rank, wake
local hold, left, ready = K .. 'hold:' .. ARGV[2], 0, {}
if not call('ZSCORE', K .. 'workers', ARGV[2]) then return 1 end
local claims = claims_of(ARGV[2])
for _, claim in ipairs(claims) do
  for spot = 0, #claim[2] - 1 do
    if left == 500 then break end
    if is_held_at(claim[3], spot) then
      local id = claim[2][spot + 1]
      local f = call('HMGET', T .. id, 'task', 'state', 'priority', 'seq', 'expires', 'tries')
      if is_running(id, f[1], f[2]) then
        if call('SISMEMBER', K .. 'cancelled', id) == 1 then
          end_waiting(id, 'cancelled', tonumber(ARGV[1]), 'cancelled', 'cancelled while it ran')
        else
          if tonumber(f[5]) and not f[6] then call('ZADD', K .. 'expires', f[5], id) end
          ready[#ready + 1] = rank(f[3], tonumber(f[4]) or 0)
          ready[#ready + 1] = id
        end
      end
      leave_at(claim[3], spot)
      left = left + 1
    end
  end
end
if #ready > 0 then
  call('ZADD', K .. 'ready', unpack(ready))
  wake()
end
for _, claim in ipairs(claims) do put_places(hold, claim[1], claim[3]) end
if call('EXISTS', hold) == 1 then return 0 end
call('ZREM', K .. 'workers', ARGV[2])
return 1
