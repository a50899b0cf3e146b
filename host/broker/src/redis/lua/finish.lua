-- finish: records the verdicts of attempts, and what follows from them. It writes what `transition` in taskhost-core decided.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation   3 ms to keep `by`   4 number of `by`, then name and value each
--         then number of claims with plain successes (by the first `by`, with no log and nothing that follows); for each its stamp, their
--         places as bits (see lib/free_stamp.lua), how many they are; then their ids, claim by claim, each by place; then their results
--         then number of other finishes, then each as JSON: id; claim and place; next: succeeded, dead, cancelled, waiting or parked; result;
--         error; instead: the error if a cancel comes first; entry of the history; counted; lost; delay in ms; by; log;
--         here: {count, records} that follow in this queue (see lib/admit.lua); out: queue and record as JSON each, for other queues
-- RETURNS one digit each, in the order given: 0 stale, 1 recorded, 2 cancelled instead
-- needs: base, slices, places, keep_log, end_task, admit, rank, wake, sweep_ended
local ttl, hold = tonumber(ARGV[1]), K .. 'hold:' .. ARGV[2]
local a = 5
for _ = 1, tonumber(ARGV[4]) do
  call('SET', K .. 'by:' .. ARGV[a], ARGV[a + 1], 'PX', ARGV[3])
  a = a + 2
end

-- The places of a claim that are still held, as words.
local claims = {}
local function open_places(stamp)
  local words = claims[stamp]
  if not words then
    words = words_of(call('HGET', hold, stamp .. ':open') or '')
    claims[stamp] = words
  end
  return words
end

-- Whether a place was still held. It is not from now on.
local function take(words, spot)
  local is_held = is_held_at(words, spot)
  if is_held then leave_at(words, spot) end
  return is_held
end

-- The plain successes. `stale` has those that are not held any more.
local parts, plain, stale = {}, 0, nil
local first = a + 1 + 3 * ARGV[a]
for part = a + 1, first - 1, 3 do
  local stamp, bits, count = ARGV[part], words_of(ARGV[part + 1]), tonumber(ARGV[part + 2])
  local words, are_held = open_places(stamp), true
  for w = 1, #bits do are_held = are_held and band(bits[w], bit.bnot(words[w] or 0)) == 0 end
  if are_held then
    for w = 1, #bits do words[w] = band(words[w], bit.bnot(bits[w])) end
  else
    stale = stale or {}
    local i = plain
    for spot = 0, 32 * #bits - 1 do
      if is_held_at(bits, spot) then
        i = i + 1
        if not take(words, spot) then stale[i] = true end
      end
    end
  end
  parts[#parts + 1] = { stamp, plain + 1, plain + count }
  plain = plain + count
end
local results = first + plain - 1
local n = tonumber(ARGV[results + plain + 1])
local ids, others = {}, {}
if plain > 0 then ids = { unpack(ARGV, first, results) } end
for i = 1, n do
  others[i] = cjson.decode(ARGV[results + plain + 1 + i])
  ids[plain + i] = others[i].id
end

-- One lookup shows whether any task of the queue needs more than a plain end.
local special, cancelled, are_all_plain = {}, {}, n == 0 and not stale and ttl > 0
if call('EXISTS', K .. 'special', K .. 'cancelled') > 0 then
  are_all_plain = false
  slices(ids, function(...)
    local these = { ... }
    for i, is in ipairs(call('SMISMEMBER', K .. 'special', ...)) do special[these[i]] = is == 1 end
    for i, is in ipairs(call('SMISMEMBER', K .. 'cancelled', ...)) do cancelled[these[i]] = is == 1 end
  end)
end
local at, gone, ends, waking, reply = int(now), int(now + ttl), open_ends(ttl, true), false, {}

-- Enqueues tasks of this queue. Those of other queues go through the outbox.
local function follow(f)
  if f.here then admit(f.here.records, 1, f.here.count, true) end
  local out = f.out or {}
  for i = 1, #out, 2 do call('XADD', K .. 'out', '*', 'queue', out[i], 'record', out[i + 1]) end
end

-- The time of a claim, in ms.
local function start_of(stamp) return string.sub(stamp, 1, -4) end

-- Everything but a success.
local function other(f, id)
  local t = T .. id
  local h = call('HMGET', t, 'task', 'state', 'tries', 'losses', 'priority', 'seq', 'errors', 'expires')
  if not h[1] then return '0' end
  if h[2] then
    -- An earlier call broke off after it wrote this end. Its list and its time may be missing.
    if h[2] ~= 'succeeded' then end_task(ends, id, h[2], 'end', at) end
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
    put('start', start_of(f.claim))
    put('e' .. errors % 5, at .. ' ' .. tries .. ' ' .. f.entry)
    put('errors', errors + 1)
    if f.lost then put('losses', (tonumber(h[4]) or 0) + 1) end
  end
  if error then put('error', error) end
  if code == '1' then follow(f) end
  if state == 'dead' or state == 'cancelled' then
    end_task(ends, id, state, 'end', at, unpack(set))
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
      call('HINCRBY', K .. 'control', 'spare', 1)
      put('seq', int(seq))
    end
    call('ZADD', K .. 'ready', rank(h[5], seq), id)
  end
  if #set > 0 then call('HSET', t, unpack(set)) end
  call('HDEL', t, 'progress', 'live')
  waking = true
  return code
end

-- End, claim time and author are one field, because each field costs some 1,900 instructions. Of a plain success also when it goes.
local function succeed(stamp, id, result, by)
  local done = at .. ' ' .. start_of(stamp) .. ' ' .. by
  if ttl > 0 and not (special[id] or cancelled[id]) then
    end_plain(ends, id, result, done .. ' ' .. gone)
    ends.plain[#ends.plain + 1] = id
  else
    end_task(ends, id, 'succeeded', 'result', result, 'done', done)
  end
end

local by = ARGV[5]
for _, part in ipairs(parts) do
  local stamp, from, to = unpack(part)
  if are_all_plain then
    -- Without `succeed`, which would cost some 1,500 instructions a task.
    local done = at .. ' ' .. start_of(stamp) .. ' ' .. by .. ' ' .. gone
    for i = from, to do end_plain(ends, ids[i], ARGV[results + i], done) end
  else
    for i = from, to do
      local is_stale = stale and stale[i]
      if not is_stale then succeed(stamp, ids[i], ARGV[results + i], by) end
      reply[i] = is_stale and '0' or '1'
    end
  end
end
if are_all_plain then
  ends.plain = ids
  reply[1] = string.rep('1', plain)
end

for i = plain + 1, plain + n do
  local id, f = ids[i], others[i - plain]
  if not take(open_places(f.claim), f.place) then
    reply[i] = '0'
  else
    if f.log then
      keep_log(id, f.claim, f.log)
      if not special[id] then
        special[id] = true
        call('SADD', K .. 'special', id)
      end
    end
    if f.next == 'succeeded' then
      follow(f)
      succeed(f.claim, id, f.result, f.by)
      reply[i] = '1'
    else
      reply[i] = other(f, id)
    end
  end
end
close_ends(ends)
for stamp, words in pairs(claims) do put_places(hold, stamp, words) end
-- A batch takes somewhat more with it than it leaves, so that the sweep has little to do.
local ended = #ends.plain
if ended >= 8 then sweep_ended('succeeded:' .. int(ttl), ended + 64) end
if waking then wake() end
return table.concat(reply)
