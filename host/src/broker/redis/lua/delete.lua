-- delete: a task that does not run is forgotten.
-- KEYS    1 th:{Q}:
-- ARGV    1 id
-- RETURNS 'unknown', 'running' or 'deleted'
local id = ARGV[1]
local t = T .. id
local f = call('HMGET', t, 'task', 'state', 'unique')
local name = f[1] or ''
if not f[1] and call('EXISTS', t) == 0 then return 'unknown' end
local state, key
if not f[2] then
  state, key = place(id, name)
  -- What stands nowhere and is held by nobody was never enqueued.
  if not state and held_since(id) ~= '' then return 'running' end
end
-- The hash goes last but for its place: a delete that is asked for again after an error midway still finds it.
local is_awaited = call('SISMEMBER', K .. 'awaited', id) == 1
release(id, f[3])
call('SREM', K .. 'special', id)
call('ZREM', K .. 'expires', id)
call('ZREM', K .. 'dead', id)
call('UNLINK', t, K .. 'log:' .. id)
if is_awaited then publish({ id }, 'deleted') end
if state then leave_place(state, key, id, name) end
return 'deleted'
