-- flow_step: writes one step of each of some flows, unless another was written, or a pause came, since the flow was read.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of flows; then of each: JSON: id; rev, the number of the last step; state; taken, how many events; wake, when it wants a
--         step without an event, or -1; is_ended; ttl, the result_ttl in ms; queue; channel; stops, ids of flows; flows, see lib/put_flow.lua;
--         result, if it has just succeeded; tells: place, what, result
--         then the number of steps, and name and record each; the same of items; the number of tasks of this queue, and their records (see
--         lib/admit.lua); the number of tasks of other queues, and queue and record as JSON each; the number of cancels, and queue and id each
-- RETURNS one digit each: 1, or 0 if nothing was written
-- needs: base, slices, admit, cancel_task, put_flow, tell_flow
local a = 2
local function pairs_of(prefix)
  local n, list = tonumber(ARGV[a]), {}
  for i = 1, 2 * n, 2 do list[i], list[i + 1] = prefix .. ARGV[a + i], ARGV[a + i + 1] end
  a = a + 1 + 2 * n
  return list
end

-- The place behind so many records.
local function skip_records(n)
  a = a + 1
  for _ = 1, n do a = a + 6 + 2 * ARGV[a + 5] end
end

local function one()
  local step = cjson.decode(ARGV[a])
  a = a + 1
  local f = K .. 'flow:' .. step.id
  local h = call('HMGET', f, 'rev', 'paused', 'end')
  local steps, items = pairs_of('n:'), pairs_of('')
  local n, records = tonumber(ARGV[a]), a + 1
  skip_records(n)
  local out, cancels = pairs_of(''), pairs_of('')
  if h[1] ~= step.rev or h[2] then return '0' end

  -- What begins and ends comes first: if this call breaks off, it is repeated, and all of these are known or done then.
  if n > 0 then admit(ARGV, records, n, true) end
  for i = 1, #out, 2 do call('XADD', K .. 'out', '*', 'queue', out[i], 'record', out[i + 1]) end
  for i = 1, #cancels, 2 do
    if cancels[i] == step.queue then
      cancel_task(cancels[i + 1], step.queue, step.channel, step.ttl)
    else
      call('XADD', K .. 'far', '*', 'queue', cancels[i], 'cancel', cancels[i + 1])
    end
  end
  for _, flow in ipairs(step.flows) do put_flow(flow) end
  for _, id in ipairs(step.stops) do
    if not call('HGET', K .. 'flow:' .. id, 'end') then
      call('HDEL', K .. 'flow:' .. id, 'paused')
      note_event(id, '! cancel')
    end
  end
  if step.result then call('HSET', f .. ':r', ':flow', step.result) end
  if step.tells then tell_flow(step.tells.place, step.tells.what, step.tells.result) end
  slices(items, function(...) call('HSET', f .. ':i', ...) end)

  -- From here on the step counts.
  for _, field in ipairs({ 'st', step.state, 'rev', int(step.rev + 1) }) do steps[#steps + 1] = field end
  if step.is_ended and not h[3] then
    steps[#steps + 1], steps[#steps + 2] = 'end', int(now)
  end
  slices(steps, function(...) call('HSET', f, ...) end)
  if step.taken > 0 then call('LTRIM', f .. ':in', int(step.taken), '-1') end
  local waits = call('EXISTS', f .. ':in') == 1
  if step.is_ended then
    if not h[3] then
      call('ZREM', K .. 'flows_live', step.id)
      call('ZADD', K .. 'flows_ended', int(now), step.id)
    end
    for _, part in ipairs({ '', ':plan', ':input', ':i', ':r', ':s' }) do call('PEXPIRE', f .. part, int(math.max(step.ttl, 60000))) end
  elseif h[3] then
    call('HDEL', f, 'end')
    call('HDEL', f .. ':r', ':flow')
    call('ZREM', K .. 'flows_ended', step.id)
    call('ZADD', K .. 'flows_live', call('HGET', f, 'at') or int(now), step.id)
  end
  if waits then
    call('ZADD', K .. 'flows', '0', step.id)
  elseif step.wake >= 0 and not step.is_ended then
    call('ZADD', K .. 'flows', int(step.wake), step.id)
  else
    call('ZREM', K .. 'flows', step.id)
  end
  return '1'
end

local reply = {}
for n = 1, tonumber(ARGV[1]) do reply[n] = one() end
return table.concat(reply)
