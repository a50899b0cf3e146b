-- tell_flow: notes what a task has told the flow that it runs for, for the next step of the flow.
-- needs: base, wake
-- A flow that is gone is told nothing. One that had ended is kept until its next step: the event may let it go on.
-- The event is written last, so that a step that reads it finds its result.
local function note_event(flow, event, field, result)
  local f = K .. 'flow:' .. flow
  local h = call('HMGET', f, 'sha', 'paused', 'end')
  if not h[1] then return end
  if h[3] then
    for _, part in ipairs({ '', ':plan', ':input', ':i', ':r', ':s' }) do call('PERSIST', f .. part) end
  end
  if field then call('HSET', f .. ':r', field, result) end
  call('RPUSH', f .. ':in', event)
  -- A paused flow keeps its events until it goes on.
  if not h[2] then
    call('ZADD', K .. 'flows', '0', flow)
    wake()
  end
end

-- `node_of`: the field `flow` of a task. `what`: S, D and the error, C, or R if the task runs again. Short results stand in the event.
local function tell_flow(node_of, what, result)
  local home, flow, node, epoch = string.match(node_of, '^(%S+) (%S+) (%S+) (%d+)$')
  if not home then return end
  local field
  if what == 'S' and result then
    if #result <= 256 then what, result = 'S ' .. result, '' else field = node .. ':' .. epoch end
  end
  local event = node .. ' ' .. epoch .. ' ' .. what
  if '{' .. home .. '}:' == string.sub(K, -#home - 3) then
    note_event(flow, event, field, result)
  else
    -- The flow stands in another queue, maybe on another server: `relay` takes the event there.
    call('XADD', K .. 'far', '*', 'queue', home, 'flow', flow, 'event', event, 'field', field or '', 'result', field and result or '')
  end
end
