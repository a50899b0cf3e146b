-- pause_schedule: it fires no more, or again from now on.
-- KEYS    1 th:{Q}:
-- ARGV    1 name   2 '1' to pause, '0' to resume
-- RETURNS whether there is such a schedule
local key = K .. 'schedule:' .. ARGV[1]
local s = call('HMGET', key, 'paused', 'last')
if not s[1] then return 0 end
-- Resuming what was not paused leaves its due times alone.
if s[1] == '1' and ARGV[2] == '0' then call('HSET', key, 'last', int(math.max(now, tonumber(s[2]) or 0))) end
-- From now on it is an operator's word, whatever a file said before.
call('HSET', key, 'paused', ARGV[2], 'named', '')
return 1
