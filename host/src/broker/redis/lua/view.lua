-- view: all that is known of tasks. A task that is in no waiting place and has not ended is in a held set.
-- KEYS    1 th:{Q}:
-- ARGV    1… ids, or held members
-- RETURNS {{id, fields and values, state, due ms or '', claim µs or '', cancel asked, by}…}, {} for one that is unknown
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
  local member = ''
  local cut = string.find(id, '@', 1, true)
  if cut then id, member = string.sub(id, 1, cut - 1), string.sub(id, cut + 1) end
  local fields = call('HGETALL', T .. id)
  local f = {}
  for n = 1, #fields, 2 do f[fields[n]] = fields[n + 1] end
  if f.done then
    local ended, start, by = string.match(f.done, '^(%d+) (%d+) (%S*)$')
    for name, value in pairs({ ['end'] = ended, start = start, by = by }) do
      f[name] = value
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  if not f.task then
    views[i] = {}
  else
    local state, due, by = f.state, '', ''
    if not state then
      local _
      state, _, due = place(id, f.task)
      if not state then
        state = 'running'
        if member == '' then member = claimed(id) end
      end
    end
    if f.by then by = call('GET', K .. 'by:' .. f.by) or '' end
    if state ~= 'running' then member = '' end
    views[i] = { id, fields, state, due or '', member, call('SISMEMBER', K .. 'cancelled', id), by }
  end
end
return views
