-- list_ends: lists succeeded and cancelled tasks, one entry a batch, in a stream for each state and keeping time.
-- needs: base
-- In such a stream the oldest entries pass their time first, and new entries trim them. `before` is how many ends were ever listed
-- there earlier, so a count is a difference. `apart` has the ids that are listed elsewhere, see `settle`.
local function list_ends(ended, ttl, apart)
  if ttl == 0 then return end
  for _, state in ipairs({ 'succeeded', 'cancelled' }) do
    local ids = ended[state] or {}
    if apart then
      local all = ids
      ids = {}
      for _, id in ipairs(all) do
        if not apart[id] then ids[#ids + 1] = id end
      end
    end
    if #ids > 0 then
      local group, at, text = state .. ':' .. int(ttl), int(now), table.concat(ids, ' ')
      local before = int(call('HINCRBY', K .. 'ended', group, int(#ids)) - #ids)
      local key, oldest = K .. 'ended:' .. group, int(math.max(now - ttl, 0))
      local added = redis.pcall('XADD', key, 'MINID', '~', oldest, 'LIMIT', '200', at .. '-*', 'at', at, 'before', before, 'ids', text)
      -- The clock was set back: the entry goes behind the last one.
      if type(added) == 'table' and added.err then call('XADD', key, '*', 'at', at, 'before', before, 'ids', text) end
    end
  end
end
