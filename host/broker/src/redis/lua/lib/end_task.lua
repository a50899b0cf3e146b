-- end_task: the one place where a task ends, whatever ends it: a success, another finish, a cancel, its `expires`, a sweep, a worker that
-- leaves, a delete or purge, or that it can't be read.
-- needs: base, release, view_of, publish, stub, list_ends, tell_flow
-- It lists the end, writes it, frees what the task held, starts the time of the result and tells those who wait, and the task's flow.
-- The caller takes the task out of its place afterwards.

-- The ends of one call. `ttl`: how long a result is kept, in ms. `is_batch`: `close_ends` lists and counts them together. A call that breaks
-- off before must come to `end_task` again when it is repeated. Other ends are listed before they are written. `plain` has the successes of
-- `end_plain`. `other`: how many others ended, by state.
local function open_ends(ttl, is_batch) return { ttl = ttl, is_batch = is_batch, plain = {}, succeeded = {}, cancelled = {}, other = {} } end

-- The total of a state only grows: a task that is retried and ends again counts again.
local function count_ends(state, n) call('HINCRBY', K .. 'control', state, int(n)) end

-- How long a result is kept. `own` is the task's `ttl`, which another program may have written.
local function kept_for(own, ttl)
  local asked = tonumber(own or nil)
  return asked and asked >= 0 and asked <= 31536000000000 and asked or ttl
end

-- A deleted task is told as cancelled. Its hash is not changed.
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

-- Ends a success of a batch of which the caller knows that it has no unique key, no `ttl` of its own, no log and no mark, and that its
-- result is kept. `done` is its end, its start, its author and when it goes. The caller adds it to `plain`, many at once. Its key does not
-- expire: `sweep_ended` removes it with its batch.
local function end_plain(ends, id, result, done)
  call('HSET', T .. id, 'state', 'succeeded', 'result', result, 'done', done)
  if ends.ttl < STUB_MS and call('HGET', T .. id, 'child') then leave_stub(id) end
end

-- Tells the flow of a task how it ended. A task that was deleted was cancelled, for its flow.
local function tell_end(node_of, state, ...)
  local f, fields = {}, { ... }
  for n = 1, #fields, 2 do f[fields[n]] = fields[n + 1] end
  if state == 'succeeded' then
    tell_flow(node_of, 'S', f.result or 'null')
  elseif state == 'dead' then
    tell_flow(node_of, 'D ' .. (f.error or ''))
  else
    tell_flow(node_of, 'C')
  end
end

-- Ends one task as `state`, or as 'deleted': then nothing is kept. The fields and values of its end follow.
local function end_task(ends, id, state, ...)
  local t = T .. id
  local own, is_deleted, is_listed_later = call('HMGET', t, 'ttl', 'unique', 'child', 'flow'), state == 'deleted', false
  local ttl = is_deleted and 0 or kept_for(own[1], ends.ttl)
  if state == 'dead' then
    call('ZADD', K .. 'dead', now, id)
  elseif ttl > 0 and ttl ~= ends.ttl then
    call('ZADD', K .. 'kept:' .. state, int(now), id)
    call('ZADD', K .. 'kept_until:' .. state, int(now + ttl), id)
  elseif ttl > 0 then
    is_listed_later = ends.is_batch
    if not is_listed_later then list_ends(state, { id }, ttl, 'ids') end
  end
  if is_deleted then tell_deleted(id) else call('HSET', t, 'state', state, ...) end
  release(id, own[2])
  if own[4] then tell_end(own[4], state, ...) end
  call('SREM', K .. 'special', id)
  call('SREM', K .. 'cancelled', id)
  -- The dead set has bounds of its own.
  if state ~= 'dead' then
    if ttl < 60000 and not is_deleted then publish({ id }, state, true) end
    if ttl < STUB_MS and own[3] then leave_stub(id) end
    if ttl == 0 then
      call('UNLINK', t, K .. 'log:' .. id)
    else
      call('PEXPIREAT', t, int(now + ttl))
      call('PEXPIREAT', K .. 'log:' .. id, int(now + ttl))
    end
  end
  if is_listed_later then
    local list = ends[state]
    list[#list + 1] = id
  elseif ttl > 0 or state == 'dead' then
    publish({ id }, state)
  end
  if is_deleted then return end
  if ends.is_batch then ends.other[state] = (ends.other[state] or 0) + 1 else count_ends(state, 1) end
end

-- Publishes and lists the ends of a batch.
local function close_ends(ends)
  local function close(ids, state, field)
    if #ids == 0 then return end
    publish(ids, state, ends.ttl < 60000)
    list_ends(state, ids, ends.ttl, field)
  end
  close(ends.plain, 'succeeded', 'kept')
  if #ends.plain > 0 then ends.other.succeeded = (ends.other.succeeded or 0) + #ends.plain end
  close(ends.succeeded, 'succeeded', 'ids')
  close(ends.cancelled, 'cancelled', 'ids')
  for state, n in pairs(ends.other) do count_ends(state, n) end
end
