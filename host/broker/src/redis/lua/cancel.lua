-- cancel: a waiting task ends at once. The worker of a running task is told on the control channel.
-- KEYS    1 th:{Q}:
-- ARGV    1 JSON: id; queue; channel, the control channel; ttl, the result_ttl in ms
-- RETURNS 'unknown', 'cancelled', 'asked', or 'ended' and the state
-- needs: base, place, kept_until, end_waiting
local asked = cjson.decode(ARGV[1])
local id = asked.id
local f = call('HMGET', T .. id, 'task', 'state', 'done')
if is_gone(f[2], f[3]) or (not f[1] and call('EXISTS', T .. id) == 0) then return 'unknown' end
if f[2] then return 'ended ' .. f[2] end
local name = f[1] or ''
local state, key = place(id, name)
if state then
  end_waiting(id, 'cancelled', asked.ttl, 'cancelled', 'cancelled before it started')
  leave_place(state, key, id, name)
  call('ZREM', K .. 'expires', id)
  return 'cancelled'
end
call('SADD', K .. 'cancelled', id)
call('PUBLISH', asked.channel, asked.queue .. ' ' .. id)
return 'asked'
