-- finish: records the verdicts of attempts, and what follows from them.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation   3 ms to keep `by`   4 number of `by`, then name and value each
--         then number of plain successes (by the first `by`, with no log and no child), then their members, then their results
--         then number of other finishes, then 8 each: member, kind, result or error, history entry, delay ms, by, log, length of its
--         children. kind: S succeeded, R retry, L retry after a loss, D dead, W dead after a loss, C cancelled, H handed back, P parked
--         then the children of each: number of records of this queue, the records (see lib/admit.lua), then queue and record as JSON each
--         No member stands there twice.
-- RETURNS one digit each, in the order given: 0 stale, 1 recorded, 2 cancelled instead
-- needs: base, slices, member, settle, admit, rank, stub, publish, list_ends, wake
local ttl, me = tonumber(ARGV[1]), ARGV[2]
local held = K .. 'held:' .. me
local a = 5
for _ = 1, tonumber(ARGV[4]) do
  call('SET', K .. 'by:' .. ARGV[a], ARGV[a + 1], 'PX', ARGV[3])
  a = a + 2
end
local plain = tonumber(ARGV[a])
local results = a + plain
local first = results + plain + 2
local n = tonumber(ARGV[first - 1])

local members, ids = {}, {}
for i = 1, plain do members[i] = ARGV[a + i] end
for i = 1, n do members[plain + i] = ARGV[first + 8 * (i - 1)] end
for i = 1, plain + n do ids[i] = id_of(members[i]) end
local is_held, reply, done = {}, {}, 0
slices(members, function(...)
  local are = call('SMISMEMBER', held, ...)
  local before = #is_held
  for i = 1, #are do
    is_held[before + i] = are[i]
    done = done + are[i]
  end
end)
-- One look a batch decides whether anything out of the ordinary must be looked for.
local special, cancelled = {}, {}
if call('EXISTS', K .. 'special', K .. 'cancelled') > 0 then
  slices(ids, function(...)
    local these = { ... }
    for i, is in ipairs(call('SMISMEMBER', K .. 'special', ...)) do special[these[i]] = is == 1 end
    for i, is in ipairs(call('SMISMEMBER', K .. 'cancelled', ...)) do cancelled[these[i]] = is == 1 end
  end)
end

-- `apart` has those that are not listed with their batch, where there are any.
local at, ended, apart, waking = int(now), {}, nil, false
local function note_end(id, state)
  local list = ended[state]
  if not list then
    list = {}
    ended[state] = list
  end
  list[#list + 1] = id
end

local function settle_one(id, state)
  if settle(id, state, ttl) then return end
  apart = apart or {}
  apart[id] = true
end

-- The newest 64 KiB, whole lines.
local function keep_log(id, text)
  local key = K .. 'log:' .. id
  if call('APPEND', key, text) > 65536 then
    local tail = call('GETRANGE', key, -65536, -1)
    local cut = string.find(tail, '\n', 1, true)
    if cut and cut < #tail then tail = string.sub(tail, cut + 1) end
    call('SET', key, tail)
  end
end

-- Children of this queue come to be here; those of others go through the outbox.
local function beget(from, length)
  if length == 0 then return end
  local _, after = admit(from + 1, tonumber(ARGV[from]), true)
  for i = after, from + length - 1, 2 do call('XADD', K .. 'out', '*', 'queue', ARGV[i], 'record', ARGV[i + 1]) end
end

-- Everything but a success. The children that follow stand in ARGV at `from`.
local function other(id, kind, data, entry, delay, by, start, from, length)
  local t = T .. id
  local f = call('HMGET', t, 'task', 'state', 'tries', 'losses', 'priority', 'seq', 'errors', 'expires')
  if not f[1] then return '0' end
  if f[2] then
    -- An earlier call broke off behind its end: it is listed now.
    if f[2] ~= 'succeeded' then
      call('HSET', t, 'end', at)
      settle_one(id, f[2])
      note_end(id, f[2])
    end
    return '0'
  end
  local code = '1'
  local state, error = nil, data
  if kind == 'D' or kind == 'W' then state = 'dead' elseif kind == 'C' then state = 'cancelled' end
  if cancelled[id] and kind ~= 'D' and kind ~= 'C' then
    state, code, error = 'cancelled', '2', '{"kind":"cancelled","message":"cancelled while it ran"}'
  else
    beget(from, length)
  end
  local set = {}
  local function put(field, value)
    set[#set + 1] = field
    set[#set + 1] = value
  end
  if entry ~= '' then
    local tries, errors = (tonumber(f[3]) or 0) + 1, tonumber(f[7]) or 0
    put('tries', tries)
    put('extra', '1')
    put('by', by)
    put('start', start)
    put('error', error)
    put('e' .. errors % 5, at .. ' ' .. tries .. ' ' .. entry)
    put('errors', errors + 1)
    if kind == 'L' or kind == 'W' then put('losses', (tonumber(f[4]) or 0) + 1) end
  end
  if state then
    if entry == '' then put('error', error) end
    put('state', state)
    put('end', at)
    call('HSET', t, unpack(set))
    settle_one(id, state)
    note_end(id, state)
    return code
  end
  local due = now + delay
  -- One that counts as not started may have been passed by while it was held.
  if entry == '' and tonumber(f[8]) and not f[3] then call('ZADD', K .. 'expires', f[8], id) end
  if kind == 'P' then
    call('ZADD', K .. 'parked:' .. f[1], rank(f[5], tonumber(f[6]) or 0), id)
    call('ZADD', K .. 'parked_at:' .. f[1], at, id)
    call('SADD', K .. 'parked', f[1])
  elseif delay > 0 then
    call('ZADD', K .. 'scheduled', int(due), id)
  else
    local seq = tonumber(f[6]) or 0
    if kind ~= 'H' then
      seq = call('HINCRBY', K .. 'control', 'seq', 1)
      put('seq', int(seq))
    end
    call('ZADD', K .. 'ready', rank(f[5], seq), id)
  end
  if #set > 0 then call('HSET', t, unpack(set)) end
  call('HDEL', t, 'progress')
  waking = true
  return code
end

local gone = int(now + ttl)
-- A success; what it leaves beside its result is written by then. When it ended and began, and who ran it, is one field: each more
-- costs some 1,900 instructions.
local function succeed(i, id, result, by)
  local t = T .. id
  local done = at .. ' ' .. string.sub(members[i], #id + 2, -4) .. ' ' .. by
  call('HSET', t, 'state', 'succeeded', 'result', result, 'done', done)
  if special[id] or cancelled[id] or ttl == 0 then return settle_one(id, 'succeeded') end
  if ttl < STUB_MS and call('HGET', t, 'child') then leave_stub(id) end
  call('PEXPIREAT', t, gone)
end

local by = ARGV[5]
if done == plain + n and n == 0 then
  for i = 1, plain do succeed(i, ids[i], ARGV[results + i], by) end
  ended.succeeded = ids
  reply[1] = string.rep('1', plain)
else
  for i = 1, plain do
    if is_held[i] == 1 then
      succeed(i, ids[i], ARGV[results + i], by)
      note_end(ids[i], 'succeeded')
    end
    reply[i] = is_held[i] == 1 and '1' or '0'
  end
end

local children = first + 8 * n
for i = plain + 1, plain + n do
  local f = first + 8 * (i - plain - 1)
  local id, kind, log, length = ids[i], ARGV[f + 1], ARGV[f + 6], tonumber(ARGV[f + 7])
  if is_held[i] == 0 then
    reply[i] = '0'
  else
    if log ~= '' then
      keep_log(id, log)
      if not special[id] then
        special[id] = true
        call('SADD', K .. 'special', id)
      end
    end
    if kind == 'S' then
      beget(children, length)
      succeed(i, id, ARGV[f + 2], ARGV[f + 5])
      note_end(id, 'succeeded')
      reply[i] = '1'
    else
      local start = string.sub(members[i], #id + 2, -4)
      reply[i] = other(id, kind, ARGV[f + 2], ARGV[f + 3], tonumber(ARGV[f + 4]), ARGV[f + 5], start, children, length)
    end
  end
  children = children + length
end
for state, list in pairs(ended) do publish(list, state, ttl < 60000) end
list_ends(ended, ttl, apart)
local left = members
if done < plain + n then
  left = {}
  for i = 1, plain + n do
    if is_held[i] == 1 then left[#left + 1] = members[i] end
  end
end
slices(left, function(...) call('SREM', held, ...) end)
if waking then wake() end
return table.concat(reply)
