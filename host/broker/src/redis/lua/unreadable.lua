-- unreadable: ends tasks that can't be read as dead, each by itself. A member without a task leaves the held set.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation, or '' for waiting tasks   3… for each: held member, or id; the id to show it under; the reason
--         as it stands in a JSON string
-- RETURNS how many ended
-- needs: base, member, place, is_open, release, end_waiting
local ttl, held, ended = tonumber(ARGV[1]), K .. 'held:' .. ARGV[2], 0
for a = 3, #ARGV, 3 do
  local member, shown, why = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local waits = ARGV[2] == ''
  local id = waits and member or id_in(member)
  local f = call('HMGET', T .. id, 'task', 'state', 'unique')
  local state, key = place(id, f[1] or '')
  local is_ours = waits and state or (not waits and call('SISMEMBER', held, member) == 1)
  if is_ours and is_open(id, f[1], f[2]) then
    -- No caller can ask for an invalid id, so the task gets another one. The old hash goes last, so that the step can be repeated
    -- after an error midway.
    if shown ~= id then call('COPY', T .. id, T .. shown, 'REPLACE') end
    if not f[1] then call('HSET', T .. shown, 'task', 'unreadable') end
    release(id, f[3])
    end_waiting(shown, 'dead', ttl, 'unreadable', why)
    call('ZREM', K .. 'expires', id)
    call('SREM', K .. 'cancelled', id)
    if state then leave_place(state, key, id, f[1] or '') end
    if shown ~= id then call('UNLINK', T .. id, K .. 'log:' .. id) end
    ended = ended + 1
  end
  if not waits then call('SREM', held, member) end
end
return ended
