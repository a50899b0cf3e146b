-- kept_of: how many ends of one list are still kept: all that were ever listed, less those past their time, less those that left early.
-- needs: base
-- `group` is `<state>:<ttl>`, and `total` its count in `ended`.
local function kept_of(group, total)
  local oldest = int(math.max(now - (tonumber(string.match(group, '%d+$')) or 0), 0))
  local first = call('XRANGE', K .. 'ended:' .. group, oldest, '+', 'COUNT', '1')[1]
  local before = first and tonumber(first[2][4])
  if not before then return 0 end
  return math.max(total - before - call('ZCOUNT', K .. 'left:' .. group, oldest, '+inf'), 0)
end
