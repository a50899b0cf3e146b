-- flows: the newest flows of a queue, first those that have not ended. Ended ones whose time is over leave the list here.
-- KEYS    1 th:{Q}:
-- ARGV    1 how many
-- RETURNS for each {id, state, name, started, ended or '', paused or '', parent}
-- needs: base
local most, found = tonumber(ARGV[1]), {}
local function take(list)
  local ids = call('ZREVRANGE', K .. list, '0', int(most - #found - 1))
  for _, id in ipairs(ids) do
    local h = call('HMGET', K .. 'flow:' .. id, 'st', 'name', 'at', 'end', 'paused', 'parent', 'sha')
    if h[7] then
      found[#found + 1] = { id, h[1] or '', h[2] or '', h[3] or '0', h[4] or '', h[5] or '', h[6] or '' }
    else
      call('ZREM', K .. list, id)
    end
  end
end
take('flows_live')
if #found < most then take('flows_ended') end
return found
