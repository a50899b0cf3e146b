-- put_schedule: creates or replaces a schedule. With the same rule and zone its due times continue; otherwise they start now.
-- KEYS    1 th:{Q}:
-- ARGV    1 name   2 rule   3 time zone   4 what it enqueues   5 overlap   6 definition as JSON   7 the pause it names: '1', '0' or ''
--         of a new one: 8 created at   9 last, '0' for now   10 '1' if it is paused and names no pause
-- A pause stays, unless the definition names one, or the definition before named a pause and this one does not.
-- needs: base
local key = K .. 'schedule:' .. ARGV[1]
local s = call('HMGET', key, 'rule', 'timezone', 'created', 'last', 'paused', 'named')
local created, last, before, paused = ARGV[8], now, s[5] or ARGV[10], ARGV[7]
if not s[1] then
  local past = tonumber(ARGV[9])
  if past > 0 then last = math.min(past, now) end
elseif s[1] == ARGV[2] and s[2] == ARGV[3] then
  created, last = s[3] or created, tonumber(s[4] or nil) or now
end
if paused == '' then paused = s[6] == '1' and '0' or before end
if before == '1' and paused == '0' then last = math.max(now, last) end
call('SADD', K .. 'schedules', ARGV[1])
call('HSET', key, 'rule', ARGV[2], 'timezone', ARGV[3], 'what', ARGV[4], 'overlap', ARGV[5], 'definition', ARGV[6], 'named', ARGV[7],
  'created', created, 'last', int(last), 'paused', paused)
return 1
