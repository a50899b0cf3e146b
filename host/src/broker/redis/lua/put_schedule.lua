-- put_schedule: create or replace; when rule and zone are the same, what has happened so far is kept.
-- KEYS    1 th:{Q}:
-- ARGV    1 name   2 rule   3 time zone   4 what it enqueues   5 overlap   6 definition as JSON   7 '1' when it is to be paused   8 created at
local key = K .. 'schedule:' .. ARGV[1]
local s = call('HMGET', key, 'rule', 'timezone')
if s[1] ~= ARGV[2] or s[2] ~= ARGV[3] then
  call('HDEL', key, 'last_task')
  call('HSET', key, 'last', int(now), 'created', ARGV[8], 'paused', ARGV[7])
end
call('SADD', K .. 'schedules', ARGV[1])
call('HSET', key, 'rule', ARGV[2], 'timezone', ARGV[3], 'what', ARGV[4], 'overlap', ARGV[5], 'definition', ARGV[6])
return 1
