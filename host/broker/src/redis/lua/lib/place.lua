-- place: where a task waits.
-- needs: base
-- The state and its key, and when the task is due; nothing while it runs.
local function place(id, name)
  if call('ZSCORE', K .. 'ready', id) then return 'ready', K .. 'ready' end
  local due = call('ZSCORE', K .. 'scheduled', id)
  if due then return 'scheduled', K .. 'scheduled', due end
  if call('ZSCORE', K .. 'parked:' .. name, id) then return 'parked', K .. 'parked:' .. name end
end

-- Takes a task out of its waiting place. `parked` holds the names under which tasks are parked.
local function leave_place(state, key, id, name)
  call('ZREM', key, id)
  if state == 'parked' then
    call('ZREM', K .. 'parked_at:' .. name, id)
    if call('EXISTS', key) == 0 then call('SREM', K .. 'parked', name) end
  end
end
