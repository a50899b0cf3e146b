-- await: ask to be told of a task's end on the channel th:{Q}:done:<id>. Subscribe first.
-- KEYS    1 th:{Q}:
-- ARGV    1 id
-- RETURNS 0 unknown, 1 it goes on, 2 it has ended
local f = call('HMGET', T .. ARGV[1], 'task', 'state')
if not f[1] then return 0 end
if f[2] then return 2 end
call('SADD', K .. 'awaited', ARGV[1])
return 1
