-- await: asks to be told of a task's end on the channel th:{Q}:done:<id>. The caller subscribes first.
-- KEYS    1 th:{Q}:
-- ARGV    1 id
-- RETURNS 0: unknown; 1: it has not ended; its view, if it has ended (see lib/view_of.lua); if it is gone, the stored text of its end
-- needs: base, view_of, kept_until
local f = call('HMGET', T .. ARGV[1], 'task', 'state', 'done')
if not f[1] or is_gone(f[2], f[3]) then return call('GET', K .. 'told:' .. ARGV[1]) or 0 end
if f[2] then return view_of(ARGV[1], '') end
call('SADD', K .. 'awaited', ARGV[1])
return 1
