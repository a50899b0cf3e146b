-- held: the tasks of an incarnation, a page at a time. A member whose task is gone leaves the held set.
-- KEYS    1 th:{Q}:
-- ARGV    1 incarnation   2 cursor
-- RETURNS {next cursor, {member, fields}…}
-- needs: base, member, is_open, read_task
local held = K .. 'held:' .. ARGV[1]
local page, found = call('SSCAN', held, ARGV[2], 'COUNT', 200), {}
for _, member in ipairs(page[2]) do
  local id = id_in(member)
  local f = read_task(id)
  if is_open(id, f[1], f[13]) then found[#found + 1] = { member, f } else call('SREM', held, member) end
end
return { page[1], found }
