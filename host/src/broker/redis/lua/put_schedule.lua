-- put_schedule: create or replace; when rule and zone are the same, what has happened so far is kept.
-- KEYS    1 th:{Q}:
-- ARGV    1 name   2 rule   3 time zone   4 definition as JSON   5 whether it is to be paused
local key = K .. 'schedule:' .. ARGV[1]
local s = redis.call('HMGET', key, 'rule', 'timezone')
if s[1] == ARGV[2] and s[2] == ARGV[3] then
  redis.call('HSET', key, 'definition', ARGV[4])
else
  redis.call('DEL', key)
  redis.call('HSET', key, 'rule', ARGV[2], 'timezone', ARGV[3], 'definition', ARGV[4], 'last', int(now), 'created', int(now), 'paused', ARGV[5])
end
redis.call('SADD', K .. 'schedules', ARGV[1])
return 1
