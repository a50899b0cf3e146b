-- slices: a call on a list that is longer than `unpack` allows.
-- needs: nothing
-- `unpack` takes at most 1,000 values here.
local function slices(list, f)
  local n = #list
  if n > 0 and n <= 1000 then return f(unpack(list)) end
  for i = 1, n, 1000 do f(unpack(list, i, math.min(i + 999, n))) end
end
