-- held_since: when the task was claimed, in microseconds; empty if no incarnation holds it. It searches all held sets.
-- needs: base
local function held_since(id)
  for _, inc in ipairs(call('ZRANGE', K .. 'workers', 0, -1)) do
    local cursor = '0'
    repeat
      local page = call('SSCAN', K .. 'held:' .. inc, cursor, 'MATCH', id .. '@*', 'COUNT', 1000)
      if page[2][1] then return string.sub(page[2][1], #id + 2) end
      cursor = page[1]
    until cursor == '0'
  end
  return ''
end
