-- fire: enqueues the task of a schedule's due time, once.
-- KEYS    1 th:{Q}:
-- ARGV    1 schedule   2 due ms   3 rule   4 time zone   5 what it enqueues   6… one record, see lib/admit.lua
-- RETURNS {'fired'}, {'not now'}, {'early', ms}, {'skipped', id}
-- needs: base, admit
local key = K .. 'schedule:' .. ARGV[1]
local due = tonumber(ARGV[2])
local s = call('HMGET', key, 'rule', 'timezone', 'what', 'paused', 'last', 'last_task', 'overlap')
if s[1] ~= ARGV[3] or s[2] ~= ARGV[4] or s[3] ~= ARGV[5] or s[4] == '1' or due <= (tonumber(s[5]) or 0) then return { 'not now' } end
if due > now then return { 'early', int(due - now) } end
if s[7] == 'skip' and s[6] then
  local f = call('HMGET', T .. s[6], 'task', 'state')
  if f[1] and not f[2] then
    call('HSET', key, 'last', int(due))
    return { 'skipped', s[6] }
  end
end
-- A known id is this same firing: the step is repeated, or the task was enqueued by hand.
admit(6, 1, true)
call('HSET', key, 'last', int(due), 'last_task', ARGV[6])
return { 'fired' }
