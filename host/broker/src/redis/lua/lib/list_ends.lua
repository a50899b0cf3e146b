-- list_ends: lists ends of one state as one entry of the stream of that state and keeping time.
-- needs: base
-- `field` is 'ids' if the key of each expires by itself, or 'kept' if `sweep_ended` removes them.
-- In such a stream the oldest entries pass their time first; `sweep_ended` takes them. `before` is how many ends were ever listed there
-- earlier, so a count is a difference.
local function list_ends(state, ids, ttl, field)
  local group, at, text = state .. ':' .. int(ttl), int(now), table.concat(ids, ' ')
  local before = int(call('HINCRBY', K .. 'ended', group, int(#ids)) - #ids)
  local key = K .. 'ended:' .. group
  local added = redis.pcall('XADD', key, at .. '-*', 'at', at, 'before', before, field, text)
  -- The clock was set back: the entry goes behind the last one.
  if type(added) == 'table' and added.err then call('XADD', key, '*', 'at', at, 'before', before, field, text) end
end
