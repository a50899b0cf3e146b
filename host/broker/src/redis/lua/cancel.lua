-- cancel: a waiting task ends at once. The worker of a running task is told on the control channel.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 id   3 control channel   4 queue
-- RETURNS 'unknown', 'cancelled', 'asked', or 'ended' and the state
-- needs: base, place, end_waiting
local id = ARGV[2]
local f = call('HMGET', T .. id, 'task', 'state')
if not f[1] and call('EXISTS', T .. id) == 0 then return 'unknown' end
if f[2] then return 'ended ' .. f[2] end
local name = f[1] or ''
local state, key = place(id, name)
if state then
  end_waiting(id, 'cancelled', tonumber(ARGV[1]), 'cancelled', 'cancelled before it started')
  leave_place(state, key, id, name)
  call('ZREM', K .. 'expires', id)
  return 'cancelled'
end
call('SADD', K .. 'cancelled', id)
call('PUBLISH', ARGV[3], ARGV[4] .. ' ' .. id)
return 'asked'
