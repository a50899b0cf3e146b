-- admit_plain: `admit` for `n` tasks with only an id, a name and arguments. They need a third of the words and no decision each.
-- needs: base, slices, rank, wake
local function admit_plain(i, n)
  local keys, known = {}, 0
  for r = 1, n do keys[r] = T .. ARGV[i + 3 * (r - 1)] end
  slices(keys, function(...) known = known + call('EXISTS', ...) end)
  -- A known id leaves a gap in the numbers.
  local seq = call('HINCRBY', K .. 'control', 'seq', int(n)) - n
  local replies, ready, fresh, added, seen = {}, {}, {}, 0, {}
  for r = 1, n do
    local id = ARGV[i + 3 * (r - 1)]
    if seen[id] or (known > 0 and call('EXISTS', keys[r]) == 1) then
      replies[r] = id
    else
      replies[r] = ''
      seen[id] = true
      ready[2 * added + 1], ready[2 * added + 2] = rank(5, seq + r), id
      added = added + 1
      fresh[added] = r
    end
  end
  if added == 0 then return replies end
  slices(ready, function(...) call('ZADD', K .. 'ready', ...) end)
  local at = int(now)
  for turn = 1, added do
    local r = fresh[turn]
    local a = i + 3 * (r - 1)
    call('HSET', keys[r], 'at', at, 'seq', int(seq + r), 'task', ARGV[a + 1], 'args', ARGV[a + 2])
  end
  wake()
  return added == n and {} or replies
end

