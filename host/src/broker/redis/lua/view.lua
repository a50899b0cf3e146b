-- view: all that is known of tasks.
-- KEYS    1 th:{Q}:
-- ARGV    1… ids, or held members
-- RETURNS {a view each}, see `view_of` in lib.lua
local views = {}
local function claimed(id)
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
for i, id in ipairs(ARGV) do
  local claim = ''
  local cut = string.find(id, '@', 1, true)
  if cut then id, claim = string.sub(id, 1, cut - 1), string.sub(id, cut + 1) end
  local view = view_of(id, claim)
  if view[3] == 'running' and claim == '' then view[5] = claimed(id) end
  views[i] = view
end
return views
