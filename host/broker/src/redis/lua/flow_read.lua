-- flow_read: what the next step of flows needs. Others leave these flows alone for a second.
-- KEYS    1 th:{Q}:
-- ARGV    1 how many flows   2 how many events of each   3 the id of the only one, or ''
-- RETURNS {now in ms, for each flow {id, sha, rev, state, names and records of its steps, events, names and records of the items in them, signals and values}…}
-- needs: base
local due = ARGV[3] ~= '' and { ARGV[3] } or call('ZRANGEBYSCORE', K .. 'flows', '-inf', int(now), 'LIMIT', '0', ARGV[1])
local found = {}
for _, id in ipairs(due) do
  local f = K .. 'flow:' .. id
  local all, steps, h = call('HGETALL', f), {}, {}
  for i = 1, #all, 2 do
    local node = string.match(all[i], '^n:(.+)$')
    if node then
      steps[#steps + 1], steps[#steps + 2] = node, all[i + 1]
    else
      h[all[i]] = all[i + 1]
    end
  end
  if not h.sha or h.paused then
    call('ZREM', K .. 'flows', id)
  else
    call('ZADD', K .. 'flows', int(now + 1000), id)
    local events, names, items, seen = call('LRANGE', f .. ':in', '0', int(ARGV[2] - 1)), {}, {}, {}
    for _, event in ipairs(events) do
      local node = string.match(event, '^([^ ]+%.%d[^ ]*) ')
      if node and not seen[node] then
        seen[node] = true
        names[#names + 1] = node
      end
    end
    for from = 1, #names, 500 do
      local some = { unpack(names, from, math.min(from + 499, #names)) }
      for i, record in ipairs(call('HMGET', f .. ':i', unpack(some))) do
        items[#items + 1], items[#items + 2] = some[i], record or ''
      end
    end
    found[#found + 1] = { id, h.sha, h.rev or '0', h.st or '', steps, events, items, call('HGETALL', f .. ':s') }
  end
end
return { int(now), found }
