-- put_flow: a flow stands in this queue and wants its first step. The hash comes last: without it there is no flow, and its places are dropped.
-- needs: base, wake
-- `flow`: id, plan, input, sha (the digest of plan, input, headers and parent), state, headers (JSON), parent (its field `flow`, or '').
-- RETURNS whether it is new
local function put_flow(flow)
  local f = K .. 'flow:' .. flow.id
  local is_new = call('EXISTS', f) == 0
  if is_new then
    call('SET', f .. ':plan', flow.plan)
    call('SET', f .. ':input', flow.input)
    call('ZADD', K .. 'flows_live', int(now), flow.id)
    call('ZADD', K .. 'flows', '0', flow.id)
    wake()
    call('HSET', f, 'st', flow.state, 'rev', '0', 'sha', flow.sha, 'name', flow.name, 'at', int(now), 'headers', flow.headers, 'parent', flow.parent)
  end
  return is_new
end
