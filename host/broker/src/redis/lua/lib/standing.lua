-- standing: how many members of a sorted set stand before this one, and whether it is in the set.
-- needs: base
-- Members are compared byte by byte, as Redis does. Lua would compare them by the server's locale.
local function standing(key, score, id)
  if tonumber(call('ZSCORE', key, id) or nil) == tonumber(score) then return call('ZRANK', key, id), true end
  local function precedes(a, b)
    for i = 1, math.min(#a, #b) do
      local x, y = string.byte(a, i), string.byte(b, i)
      if x ~= y then return x < y end
    end
    return #a < #b
  end
  local low, high = call('ZCOUNT', key, '-inf', '(' .. score), call('ZCOUNT', key, '-inf', score)
  while low < high do
    local mid = math.floor((low + high) / 2)
    if precedes(call('ZRANGE', key, int(mid), int(mid))[1], id) then low = mid + 1 else high = mid end
  end
  return low, false
end
