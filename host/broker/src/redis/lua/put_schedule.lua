-- put_schedule: creates or replaces a schedule. With the same rule and zone its due times continue; otherwise they start now.
-- KEYS    1 th:{Q}:
-- ARGV    1 JSON: name, rule, timezone, what it enqueues, overlap, definition; named, the pause that the definition names: '1', '0' or '';
--         of a new one: created; last, 0 for now; paused: '1' if it is paused and names no pause; record: of the queue that it leaves
-- A pause stays, unless the definition names one, or the definition before named a pause and this one does not.
-- needs: base, remember
local new = cjson.decode(ARGV[1])
local key = K .. 'schedule:' .. new.name
local s = call('HMGET', key, 'rule', 'timezone', 'created', 'last', 'paused', 'named', 'record')
local created, last, before, paused = int(new.created), now, s[5] or new.paused, new.named
local record = s[7] or new.record
if not s[1] then
  if new.last > 0 then last = math.min(new.last, now) end
elseif s[1] == new.rule and s[2] == new.timezone then
  created, last = s[3] or created, tonumber(s[4] or nil) or now
end
if paused == '' then paused = s[6] == '1' and '0' or before end
if before == '1' and paused == '0' then last = math.max(now, last) end
call('SADD', K .. 'schedules', new.name)
call('HSET', key, 'rule', new.rule, 'timezone', new.timezone, 'what', new.what, 'overlap', new.overlap, 'definition', new.definition,
  'named', new.named, 'created', created, 'last', int(last), 'paused', paused)
if record == '' or paused ~= before then remember(key, record, now, paused == '1' and 'p' or 'b') else call('HSET', key, 'record', record) end
return 1
