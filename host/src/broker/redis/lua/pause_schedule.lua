-- pause_schedule: it fires no more, or again from now on.
-- KEYS    1 th:{Q}:
-- ARGV    1 name   2 '1' to pause, '0' to resume
-- RETURNS whether there is such a schedule
local key = K .. 'schedule:' .. ARGV[1]
local paused = redis.call('HGET', key, 'paused')
if not paused then return 0 end
if paused == '1' and ARGV[2] == '0' then redis.call('HSET', key, 'last', int(now)) end
redis.call('HSET', key, 'paused', ARGV[2])
return 1
