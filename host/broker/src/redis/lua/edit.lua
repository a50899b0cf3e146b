-- edit: gives a task other arguments, unless it runs or has succeeded.
-- KEYS    1 th:{Q}:
-- ARGV    1 id   2 args
-- RETURNS 'unknown', 'edited', or the state it is in
-- needs: base, place, kept_until
local id = ARGV[1]
local f = call('HMGET', T .. id, 'task', 'state', 'done')
if is_gone(f[2], f[3]) or (not f[1] and call('EXISTS', T .. id) == 0) then return 'unknown' end
if f[2] == 'succeeded' then return f[2] end
if not f[2] and not place(id, f[1] or '') then return 'running' end
call('HSET', T .. id, 'args', ARGV[2])
return 'edited'
