-- unreadable: ends tasks that can't be read as dead, each by itself. A place without a task is left.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation, or '' for waiting tasks   3… for each: id; stamp and place, or '' twice; the id to show it
--         under; the reason as it stands in a JSON string
-- RETURNS how many ended
-- needs: base, places, place, is_open, release, end_waiting
local ttl, hold, ended, claims = tonumber(ARGV[1]), K .. 'hold:' .. ARGV[2], 0, {}
for a = 3, #ARGV, 5 do
  local id, stamp, at, shown, why = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local waits = ARGV[2] == ''
  local f = call('HMGET', T .. id, 'task', 'state', 'unique')
  local state, key = place(id, f[1] or '')
  local words
  if not waits then
    words = claims[stamp] or words_of(call('HGET', hold, stamp .. ':open') or '')
    claims[stamp] = words
  end
  local is_ours = waits and state or (words and is_held_at(words, at))
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
  if words and is_ours then leave_at(words, at) end
end
for stamp, words in pairs(claims) do put_places(hold, stamp, words) end
return ended
