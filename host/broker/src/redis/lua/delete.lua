-- delete: removes a task that does not run. One that waits ends as deleted.
-- KEYS    1 th:{Q}:
-- ARGV    1 id
-- RETURNS 'unknown', 'running' or 'deleted'
-- needs: base, place, kept_until, held_since, end_task, release, unlist, stub
local id = ARGV[1]
local t = T .. id
local f = call('HMGET', t, 'task', 'state', 'unique', 'child', 'done')
local name = f[1] or ''
if is_gone(f[2], f[5]) or (not f[1] and call('EXISTS', t) == 0) then return 'unknown' end
if f[2] then
  -- The hash goes last, so that a repeated delete still finds it after an error midway.
  release(id, f[3])
  unlist(id, f[2])
  if f[4] then leave_stub(id) end
  call('SREM', K .. 'special', id)
  call('ZREM', K .. 'dead', id)
  call('ZREM', K .. 'expires', id)
  call('UNLINK', t, K .. 'log:' .. id)
  return 'deleted'
end
local state, key = place(id, name)
-- A task in no waiting place that no incarnation holds was written by another program.
if not state and held_since(id) ~= '' then return 'running' end
call('ZREM', K .. 'expires', id)
end_task(open_ends(0), id, 'deleted')
if state then leave_place(state, key, id, name) end
return 'deleted'
