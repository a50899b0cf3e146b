-- tell_deleted: a waiting task is deleted. Those who wait for its end learn that it never runs.
-- needs: base, view_of, publish
local function tell_deleted(id)
  if call('SISMEMBER', K .. 'awaited', id) == 0 then return end
  local view = view_of(id, '')
  if not view[1] then return end
  view[3], view[4] = 'cancelled', ''
  for name, value in pairs({ ['end'] = int(now), error = '{"kind":"cancelled","message":"deleted before it started"}' }) do
    view[2][#view[2] + 1] = name
    view[2][#view[2] + 1] = value
  end
  publish({ id }, 'cancelled', true, view)
end
