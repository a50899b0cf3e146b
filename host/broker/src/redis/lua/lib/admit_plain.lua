-- admit_plain: `admit` for `n` tasks with only an id, a name and arguments. They need a third of the words and no decision each.
-- needs: base, slices, rank, is_known, wake
-- `are_sorted`: each id is greater than the one before, byte by byte. Then they share one sequence number, because in `ready` ids of one
-- score stand in the order of their bytes.
local function admit_plain(i, n, are_sorted)
  local keys, known = {}, 0
  for r = 1, n do keys[r] = T .. ARGV[i + 3 * (r - 1)] end
  slices(keys, function(...) known = known + call('EXISTS', ...) end)
  -- A known id leaves a gap in the numbers.
  local numbers = are_sorted and 1 or n
  local seq = call('HINCRBY', K .. 'control', 'seq', int(numbers)) - numbers + 1
  local number, score = int(seq), rank(5, seq)
  local replies, ready, fresh, added, seen = {}, {}, {}, 0, {}
  for r = 1, n do
    local id = ARGV[i + 3 * (r - 1)]
    if seen[id] or (known > 0 and is_known(id)) then
      replies[r] = id
    else
      replies[r] = ''
      seen[id] = true
      ready[2 * added + 1], ready[2 * added + 2] = are_sorted and score or rank(5, seq + r - 1), id
      added = added + 1
      fresh[added] = r
    end
  end
  if numbers ~= added then call('HINCRBY', K .. 'control', 'spare', int(numbers - added)) end
  if added == 0 then return replies end
  slices(ready, function(...) call('ZADD', K .. 'ready', ...) end)
  local at = int(now)
  for turn = 1, added do
    local r = fresh[turn]
    local a = i + 3 * (r - 1)
    call('HSET', keys[r], 'at', at, 'seq', are_sorted and number or int(seq + r - 1), 'task', ARGV[a + 1], 'args', ARGV[a + 2])
  end
  wake()
  return added == n and {} or replies
end
