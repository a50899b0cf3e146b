-- view: everything that is known of tasks.
-- KEYS    1 th:{Q}:
-- ARGV    1… ids, or held members
-- RETURNS {a view each}, see lib/view_of.lua
-- needs: view_of, held_since
local views = {}
for i, id in ipairs(ARGV) do
  local claim = ''
  local cut = string.find(id, '@', 1, true)
  if cut then id, claim = string.sub(id, 1, cut - 1), string.sub(id, cut + 1) end
  local view = view_of(id, claim)
  if view[3] == 'running' and claim == '' then view[5] = held_since(id) end
  views[i] = view
end
return views
