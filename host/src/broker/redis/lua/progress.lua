-- progress: what a running body says of itself; written only while the task lives.
-- KEYS    1 th:{Q}:
-- ARGV    1 id   2 JSON
local t = K .. 't:' .. ARGV[1]
local f = redis.call('HMGET', t, 'task', 'state')
if f[1] and not f[2] then redis.call('HSET', t, 'progress', ARGV[2]) end
return 1
