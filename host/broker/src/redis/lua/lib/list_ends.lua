-- list_ends: lists ends of one state as one entry of the stream of that state and keeping time.
-- needs: base
-- In such a stream the oldest entries pass their time first, and new entries trim them. `before` is how many ends were ever listed
-- there earlier, so a count is a difference.
local function list_ends(state, ids, ttl)
  local group, at, text = state .. ':' .. int(ttl), int(now), table.concat(ids, ' ')
  local before = int(call('HINCRBY', K .. 'ended', group, int(#ids)) - #ids)
  local key, oldest = K .. 'ended:' .. group, int(math.max(now - ttl, 0))
  local added = redis.pcall('XADD', key, 'MINID', '~', oldest, 'LIMIT', '200', at .. '-*', 'at', at, 'before', before, 'ids', text)
  -- The clock was set back: the entry goes behind the last one.
  if type(added) == 'table' and added.err then call('XADD', key, '*', 'at', at, 'before', before, 'ids', text) end
end
