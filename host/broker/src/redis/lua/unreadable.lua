-- unreadable: tasks that no host can read end as dead, each alone; what is no task leaves the held set.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation, or '' of waiting ones   3… for each: held member, or id; the id to show it under; why, as it
--         stands in a JSON string
-- RETURNS how many ended
local ttl, held, ended = tonumber(ARGV[1]), K .. 'held:' .. ARGV[2], 0
for a = 3, #ARGV, 3 do
  local member, shown, why = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local waits = ARGV[2] == ''
  local id = waits and member or id_in(member)
  local f = call('HMGET', T .. id, 'task', 'state', 'unique')
  local state, key = place(id, f[1] or '')
  local is_ours = waits and state or (not waits and call('SISMEMBER', held, member) == 1)
  if is_ours and is_open(id, f[1], f[2]) then
    -- Nobody can ask for an id that is none: the task goes on under another. The old hash goes last, so that an error midway is mended
    -- by doing it again.
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
