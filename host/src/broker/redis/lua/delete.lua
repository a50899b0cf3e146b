-- delete: a task that does not run is forgotten.
-- KEYS    1 th:{Q}:
-- ARGV    1 id
-- RETURNS 'unknown', 'running' or 'deleted'
local id = ARGV[1]
local t = T .. id
local f = call('HMGET', t, 'task', 'state', 'unique')
if not f[1] then return 'unknown' end
local state, key
if not f[2] then
  state, key = place(id, f[1])
  if not state then return 'running' end
end
release(id, f[3])
if f[2] then unlist(id, f[2]) end
call('UNLINK', t, K .. 'log:' .. id)
call('SREM', K .. 'special', id)
call('ZREM', K .. 'expires', id)
call('ZREM', K .. 'dead', id)
publish({ id }, 'deleted')
if state then leave_place(state, key, id, f[1]) end
return 'deleted'
