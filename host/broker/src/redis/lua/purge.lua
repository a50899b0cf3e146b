-- purge: deletes waiting tasks, at most 500 a call. They end as deleted.
-- KEYS    1 th:{Q}:
-- RETURNS {how many, whether more tasks wait, whether the queue holds anything at all}
-- needs: base, place, end_task, kept_of
local gone, ends = 0, open_ends(0)
local function drop(state, key, name)
  local ids = call('ZRANGE', key, 0, 499 - gone)
  for _, id in ipairs(ids) do
    if not call('HGET', T .. id, 'state') then
      call('ZREM', K .. 'expires', id)
      end_task(ends, id, 'deleted')
    end
    leave_place(state, key, id, name)
  end
  gone = gone + #ids
end
drop('ready', K .. 'ready')
if gone < 500 then drop('scheduled', K .. 'scheduled') end
for _, name in ipairs(call('SRANDMEMBER', K .. 'parked', 1000)) do
  if gone < 500 then drop('parked', K .. 'parked:' .. name, name) end
  if call('EXISTS', K .. 'parked:' .. name) == 0 then call('SREM', K .. 'parked', name) end
end
-- Keys of another type that were set aside, see careful.lua.
for _, name in ipairs(call('SRANDMEMBER', K .. 'aside', 500)) do
  call('UNLINK', K .. 'aside:' .. name)
  call('SREM', K .. 'aside', name)
end
local waits = call('EXISTS', K .. 'aside', K .. 'ready', K .. 'scheduled', K .. 'parked')
local other = call('EXISTS', K .. 'dead', K .. 'workers', K .. 'out', K .. 'far', K .. 'flows_live', K .. 'flows_ended', K .. 'schedules')
if call('HGET', K .. 'control', 'paused') then other = other + 1 end
-- The queue is listed while any of its ends is kept.
local groups = call('HGETALL', K .. 'ended')
for i = 1, #groups, 2 do other = other + kept_of(groups[i], tonumber(groups[i + 1]) or 0) end
for _, state in ipairs({ 'succeeded', 'cancelled' }) do other = other + call('ZCOUNT', K .. 'kept_until:' .. state, int(now), '+inf') end
return { gone, waits, waits + other }
