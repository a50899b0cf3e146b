-- pause_schedule: pauses a schedule, or resumes it from now on.
-- KEYS    1 th:{Q}:
-- ARGV    1 name   2 '1' to pause, '0' to resume
-- RETURNS whether there is such a schedule
-- needs: base, remember
local key = K .. 'schedule:' .. ARGV[1]
local s = call('HMGET', key, 'paused', 'last', 'record')
if not s[1] then return 0 end
-- Resuming a schedule that is not paused keeps its due times.
if s[1] == '1' and ARGV[2] == '0' then call('HSET', key, 'last', int(math.max(now, tonumber(s[2]) or 0))) end
if s[1] ~= ARGV[2] then remember(key, s[3], now, ARGV[2] == '1' and 'p' or 'b') end
-- From now on this is the operator's choice, so a pause that a definition named no longer counts.
call('HSET', key, 'paused', ARGV[2], 'named', '')
return 1
