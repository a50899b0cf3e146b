-- view_of: everything that is known of a task; {} if the id is unknown.
-- needs: base, place, kept_until
-- RETURNS {id, fields and values, state, due ms or '', claim µs or '', whether a cancel was asked for, worker and code}
-- `claim` is the claim time, if the caller knows it. A task runs if it has not ended and stands in no waiting place.
local function view_of(id, claim)
  local fields = call('HGETALL', T .. id)
  local f = {}
  for n = 1, #fields, 2 do f[fields[n]] = fields[n + 1] end
  if #fields == 0 or is_gone(f.state, f.done) then return {} end
  if f.done then
    local ended, start, by = string.match(f.done, '^(%d+) (%d+) (%S*)')
    for name, value in pairs({ ['end'] = ended, start = start, by = by }) do
      f[name] = value
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  local state, due, by = f.state, '', ''
  if not state then
    local _
    state, _, due = place(id, f.task or '')
    state = state or 'running'
  end
  if f.by then by = call('GET', K .. 'by:' .. f.by) or '' end
  return { id, fields, state, due or '', state == 'running' and claim or '', call('SISMEMBER', K .. 'cancelled', id), by }
end
