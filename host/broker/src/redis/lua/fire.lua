-- fire: enqueues the task of a schedule's due time, once.
-- KEYS    1 th:{Q}:
-- ARGV    1 JSON: schedule, due in ms, rule, timezone, what it enqueues; record: the task, see lib/admit.lua
-- RETURNS {'fired'}, {'not now'}, {'early', ms}, {'skipped', id}
-- needs: base, admit, remember
local firing = cjson.decode(ARGV[1])
local key = K .. 'schedule:' .. firing.schedule
local due = firing.due
local s = call('HMGET', key, 'rule', 'timezone', 'what', 'paused', 'last', 'last_task', 'overlap', 'record')
if s[1] ~= firing.rule or s[2] ~= firing.timezone or s[3] ~= firing.what or s[4] == '1' or due <= (tonumber(s[5]) or 0) then return { 'not now' } end
if due > now then return { 'early', int(due - now) } end
if s[7] == 'skip' and s[6] then
  local f = call('HMGET', T .. s[6], 'task', 'state')
  if f[1] and not f[2] then
    call('HSET', key, 'last', int(due))
    remember(key, s[8], due, 's')
    return { 'skipped', s[6] }
  end
end
-- A known id is this same firing: the step is repeated, or the task was enqueued by hand.
admit(firing.record, 1, 1, true)
call('HSET', key, 'last', int(due), 'last_task', firing.record[1])
remember(key, s[8], due, 'f')
return { 'fired' }
