-- flow_more: records of items and results of nodes, for a step.
-- KEYS    1 th:{Q}:
-- ARGV    1 id   2 how many items   then their names   then fields of results, see lib/tell_flow.lua
-- RETURNS {records, results}, nil for what there is not
-- needs: base
local f, n = K .. 'flow:' .. ARGV[1], tonumber(ARGV[2])
local function get(key, from, to)
  local list = {}
  for first = from, to, 1000 do
    for _, value in ipairs(call('HMGET', key, unpack(ARGV, first, math.min(first + 999, to)))) do list[#list + 1] = value end
  end
  return list
end
return { get(f .. ':i', 3, 2 + n), get(f .. ':r', 3 + n, #ARGV) }
