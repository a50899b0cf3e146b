-- finish: records the verdicts of attempts, and what follows from them. It writes what `transition` in taskhost-core decided.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation   3 ms to keep `by`   4 number of `by`, then name and value each
--         then number of plain successes (by the first `by`, with no log and nothing that follows), their members, their results
--         then number of other finishes, then each as JSON: member; next: succeeded, dead, cancelled, waiting or parked; result; error;
--         instead: the error if a cancel comes first; entry of the history; counted; lost; delay in ms; by; log;
--         here: {count, records} that follow in this queue (see lib/admit.lua); out: queue and record as JSON each, for other queues
--         No member is given twice.
-- RETURNS one digit each, in the order given: 0 stale, 1 recorded, 2 cancelled instead
-- needs: base, slices, member, end_task, admit, rank, wake
local ttl, me = tonumber(ARGV[1]), ARGV[2]
local held = K .. 'held:' .. me
local a = 5
for _ = 1, tonumber(ARGV[4]) do
  call('SET', K .. 'by:' .. ARGV[a], ARGV[a + 1], 'PX', ARGV[3])
  a = a + 2
end
local plain = tonumber(ARGV[a])
local results = a + plain
local first = results + plain + 1
local n = tonumber(ARGV[first])

local members, ids, others = {}, {}, {}
for i = 1, plain do members[i] = ARGV[a + i] end
for i = 1, n do
  others[i] = cjson.decode(ARGV[first + i])
  members[plain + i] = others[i].member
end
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
-- One lookup shows whether any task of the queue needs more than a plain end.
local special, cancelled, are_all_plain = {}, {}, n == 0 and done == plain and ttl > 0
if call('EXISTS', K .. 'special', K .. 'cancelled') > 0 then
  are_all_plain = false
  slices(ids, function(...)
    local these = { ... }
    for i, is in ipairs(call('SMISMEMBER', K .. 'special', ...)) do special[these[i]] = is == 1 end
    for i, is in ipairs(call('SMISMEMBER', K .. 'cancelled', ...)) do cancelled[these[i]] = is == 1 end
  end)
end
local at, ends, waking = int(now), open_ends(ttl, true), false

-- Keeps the newest 64 KiB, whole lines.
local function keep_log(id, text)
  local key = K .. 'log:' .. id
  if call('APPEND', key, text) > 65536 then
    local tail = call('GETRANGE', key, -65536, -1)
    local cut = string.find(tail, '\n', 1, true)
    if cut and cut < #tail then tail = string.sub(tail, cut + 1) end
    call('SET', key, tail)
  end
end

-- Enqueues tasks of this queue. Those of other queues go through the outbox.
local function follow(f)
  if f.here then admit(f.here.records, 1, f.here.count, true) end
  local out = f.out or {}
  for i = 1, #out, 2 do call('XADD', K .. 'out', '*', 'queue', out[i], 'record', out[i + 1]) end
end

-- The claim time of a member, in ms.
local function start_of(member, id) return string.sub(member, #id + 2, -4) end

-- Everything but a success.
local function other(f, id)
  local t = T .. id
  local h = call('HMGET', t, 'task', 'state', 'tries', 'losses', 'priority', 'seq', 'errors', 'expires')
  if not h[1] then return '0' end
  if h[2] then
    -- An earlier call broke off after it wrote this end. Its list and its time may be missing.
    if h[2] ~= 'succeeded' then end_task(ends, id, h[2], false, 'end', at) end
    return '0'
  end
  local code, state, error = '1', f.next, f.error
  if cancelled[id] and f.instead then code, state, error = '2', 'cancelled', f.instead end
  local set = {}
  local function put(field, value)
    set[#set + 1] = field
    set[#set + 1] = value
  end
  if f.counted then
    local tries, errors = (tonumber(h[3]) or 0) + 1, tonumber(h[7]) or 0
    put('tries', tries)
    put('extra', '1')
    put('by', f.by)
    put('start', start_of(f.member, id))
    put('e' .. errors % 5, at .. ' ' .. tries .. ' ' .. f.entry)
    put('errors', errors + 1)
    if f.lost then put('losses', (tonumber(h[4]) or 0) + 1) end
  end
  if error then put('error', error) end
  if code == '1' then follow(f) end
  if state == 'dead' or state == 'cancelled' then
    end_task(ends, id, state, false, 'end', at, unpack(set))
    return code
  end
  -- A task without a counted attempt has not started, so it can expire again. `expires` may have lost its id while it was held.
  if not f.counted and tonumber(h[8]) and not h[3] then call('ZADD', K .. 'expires', h[8], id) end
  if state == 'parked' then
    call('ZADD', K .. 'parked:' .. h[1], rank(h[5], tonumber(h[6]) or 0), id)
    call('ZADD', K .. 'parked_at:' .. h[1], at, id)
    call('SADD', K .. 'parked', h[1])
  elseif f.delay > 0 then
    call('ZADD', K .. 'scheduled', int(now + f.delay), id)
  else
    -- Handed back it keeps its place. After an attempt it goes behind the others.
    local seq = tonumber(h[6]) or 0
    if f.counted then
      seq = call('HINCRBY', K .. 'control', 'seq', 1)
      put('seq', int(seq))
    end
    call('ZADD', K .. 'ready', rank(h[5], seq), id)
  end
  if #set > 0 then call('HSET', t, unpack(set)) end
  call('HDEL', t, 'progress')
  waking = true
  return code
end

-- End, claim time and author are one field, because each field costs some 1,900 instructions.
local function succeed(member, id, result, by)
  local is_plain = ttl > 0 and not (special[id] or cancelled[id])
  end_task(ends, id, 'succeeded', is_plain, 'result', result, 'done', at .. ' ' .. start_of(member, id) .. ' ' .. by)
  if is_plain then ends.succeeded[#ends.succeeded + 1] = id end
end

local by = ARGV[5]
if are_all_plain then
  -- Without `succeed`, which would cost some 1,500 instructions a task.
  for i = 1, plain do
    local id = ids[i]
    local written = at .. ' ' .. string.sub(members[i], #id + 2, -4) .. ' ' .. by
    end_task(ends, id, 'succeeded', true, 'result', ARGV[results + i], 'done', written)
  end
  ends.succeeded = ids
  reply[1] = string.rep('1', plain)
else
  for i = 1, plain do
    if is_held[i] == 1 then succeed(members[i], ids[i], ARGV[results + i], by) end
    reply[i] = is_held[i] == 1 and '1' or '0'
  end
end

for i = plain + 1, plain + n do
  local id, f = ids[i], others[i - plain]
  if is_held[i] == 0 then
    reply[i] = '0'
  else
    if f.log then
      keep_log(id, f.log)
      if not special[id] then
        special[id] = true
        call('SADD', K .. 'special', id)
      end
    end
    if f.next == 'succeeded' then
      follow(f)
      succeed(f.member, id, f.result, f.by)
      reply[i] = '1'
    else
      reply[i] = other(f, id)
    end
  end
end
close_ends(ends)
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
