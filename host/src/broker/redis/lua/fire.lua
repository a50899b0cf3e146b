-- fire: a schedule's due time enqueues its task once, whoever comes first.
-- KEYS    1 th:{Q}:
-- ARGV    1 schedule   2 due ms   3 rule   4 time zone   5 overlap   6… one record, see `admit` in lib.lua
-- RETURNS {'fired'}, {'not now'}, {'early', ms}, {'skipped', id}
local key = K .. 'schedule:' .. ARGV[1]
local due = tonumber(ARGV[2])
local s = redis.call('HMGET', key, 'rule', 'timezone', 'paused', 'last', 'last_task')
if not s[1] or s[1] ~= ARGV[3] or s[2] ~= ARGV[4] or s[3] == '1' or due <= tonumber(s[4]) then return { 'not now' } end
if due > now then return { 'early', int(due - now) } end
if ARGV[5] == 'skip' and s[5] and s[5] ~= '' then
  local f = redis.call('HMGET', K .. 't:' .. s[5], 'task', 'state')
  if f[1] and not f[2] then
    redis.call('HSET', key, 'last', int(due))
    return { 'skipped', s[5] }
  end
end
admit(6, 1)
redis.call('HSET', key, 'last', int(due), 'last_task', ARGV[6])
return { 'fired' }
