-- progress: stores the progress of a task that has not ended.
-- KEYS    1 th:{Q}:
-- ARGV    1 id   2 JSON
-- needs: base
local t = T .. ARGV[1]
local f = call('HMGET', t, 'task', 'state')
if f[1] and not f[2] then call('HSET', t, 'progress', ARGV[2]) end
return 1
