-- What the verbs share; put before each of them. KEYS[1] is the queue's prefix `th:{Q}:`, and every key is built under it.
-- No script rolls back: check first, write the new place next, leave the old place last; then an error midway leaves a task
-- in two places, never in none, and the call may be repeated. `unpack` takes at most 1,000 ids a call. A verb gets the blocks
-- that it names, and what these name (scripts.rs): a block is what stands between two empty lines, the first goes with every one.
local K, call = KEYS[1], redis.call
local T = K .. 't:'
local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

-- Lua writes numbers of 15 digits and more as 1e+15. `%d` is five times as fast as `%.0f`, where a C long has 64 bits.
local format, whole = string.format, string.format('%d', 2 ^ 52) == '4503599627370496' and '%d' or '%.0f'
local function int(n) return format(whole, n) end

local function slices(list, f)
  local n = #list
  if n > 0 and n <= 1000 then return f(unpack(list)) end
  for i = 1, n, 1000 do f(unpack(list, i, math.min(i + 999, n))) end
end

-- One waiter of BZPOPMIN leaves its sleep.
local function wake() call('ZADD', K .. 'wake', '0', 'w') end

-- The score in `ready`: priority, then sequence.
local function rank(priority, seq) return int((9 - (tonumber(priority) or 5)) * 1e14 + seq) end

local function id_of(member) return string.sub(member, 1, string.find(member, '@', 1, true) - 1) end

-- The same of what anybody may have written into a held set.
local function id_in(member) return string.match(member, '^(.*)@%d*$') or member end

-- Whether a hash that was read and has these values of `task` and `state` is a task that has not ended. One without a name is one, too:
-- somebody else wrote it, it is claimed like any, and whoever claims it ends it as unreadable.
local function is_open(id, task, state) return not state and (task or call('EXISTS', T .. id) == 1) end

-- Where a task waits: the state and its key; nil when it runs.
local function place(id, name)
  if call('ZSCORE', K .. 'ready', id) then return 'ready', K .. 'ready' end
  local due = call('ZSCORE', K .. 'scheduled', id)
  if due then return 'scheduled', K .. 'scheduled', due end
  if call('ZSCORE', K .. 'parked:' .. name, id) then return 'parked', K .. 'parked:' .. name end
end

-- Leaves a waiting place; `parked` is the set of names under which something is parked.
local function leave_place(state, key, id, name)
  call('ZREM', key, id)
  if state == 'parked' then
    call('ZREM', K .. 'parked_at:' .. name, id)
    if call('EXISTS', key) == 0 then call('SREM', K .. 'parked', name) end
  end
end

local function release(id, unique)
  if unique and call('GET', K .. 'unique:' .. unique) == id then call('DEL', K .. 'unique:' .. unique) end
end

-- Lists what has ended, one entry a batch: a stream for each state and time of keeping, so that its oldest entries are over their time first,
-- and go with the newest that come. `before` is how many were ever listed there earlier: a count is a difference. `apart` has the
-- ids that are listed elsewhere (see `settle`).
local function tell(ended, ttl, apart)
  if ttl == 0 then return end
  for _, state in ipairs({ 'succeeded', 'cancelled' }) do
    local ids = ended[state] or {}
    if apart then
      local all = ids
      ids = {}
      for _, id in ipairs(all) do
        if not apart[id] then ids[#ids + 1] = id end
      end
    end
    if #ids > 0 then
      local group, at, text = state .. ':' .. int(ttl), int(now), table.concat(ids, ' ')
      local before = int(call('HINCRBY', K .. 'ended', group, int(#ids)) - #ids)
      local key, oldest = K .. 'ended:' .. group, int(math.max(now - ttl, 0))
      local told = redis.pcall('XADD', key, 'MINID', '~', oldest, 'LIMIT', '200', at .. '-*', 'at', at, 'before', before, 'ids', text)
      -- A clock that was set back: the entry stands behind the last one.
      if type(told) == 'table' and told.err then call('XADD', key, '*', 'at', at, 'before', before, 'ids', text) end
    end
  end
end

-- How many of a group of ends are kept still: all that came, less those before the first that is in time, less those that left early.
local function kept_of(group, total)
  local oldest = int(math.max(now - (tonumber(string.match(group, '%d+$')) or 0), 0))
  local first = call('XRANGE', K .. 'ended:' .. group, oldest, '+', 'COUNT', '1')[1]
  local before = first and tonumber(first[2][4])
  if not before then return 0 end
  return math.max(total - before - call('ZCOUNT', K .. 'left:' .. group, oldest, '+inf'), 0)
end

-- An ended task that leaves before its time is over is not counted any more.
local function unlist(id, state)
  if state == 'dead' then return end
  if call('ZREM', K .. 'kept:' .. state, id) == 1 then
    call('ZREM', K .. 'kept_until:' .. state, id)
    return
  end
  local f = call('HMGET', T .. id, 'end', 'done')
  local at = tonumber(f[1] or string.match(f[2] or '', '^%d+'))
  if not at then return end
  local group = state .. ':' .. int(call('PEXPIRETIME', T .. id) - at)
  if call('HEXISTS', K .. 'ended', group) == 1 then call('ZADD', K .. 'left:' .. group, int(at), id .. '@' .. int(at)) end
end

-- How many members of a sorted set stand before this one, and whether it is there. Lua compares text by the server's locale, Redis by bytes.
local function standing(key, score, id)
  if tonumber(call('ZSCORE', key, id) or nil) == tonumber(score) then return call('ZRANK', key, id), true end
  local function precedes(a, b)
    for i = 1, math.min(#a, #b) do
      local x, y = string.byte(a, i), string.byte(b, i)
      if x ~= y then return x < y end
    end
    return #a < #b
  end
  local low, high = call('ZCOUNT', key, '-inf', '(' .. score), call('ZCOUNT', key, '-inf', score)
  while low < high do
    local mid = math.floor((low + high) / 2)
    if precedes(call('ZRANGE', key, int(mid), int(mid))[1], id) then low = mid + 1 else high = mid end
  end
  return low, false
end

-- All that is known of a task: {id, fields and values, state, due ms or '', claim µs or '', cancel asked, by}, {} of an unknown one. A task
-- that is in no waiting place and has not ended is in a held set; `claim` is when it was claimed, as far as the caller knows it.
local function view_of(id, claim)
  local fields = call('HGETALL', T .. id)
  local f = {}
  for n = 1, #fields, 2 do f[fields[n]] = fields[n + 1] end
  if #fields == 0 then return {} end
  if f.done then
    local ended, start, by = string.match(f.done, '^(%d+) (%d+) (%S*)$')
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

-- Whoever awaits one of them is told, and with it what became of it (`view`, or what stands there), where that is short: else they ask.
-- `is_going`: nothing else of it is kept for a minute, so this is kept for those who await it. A message may be lost.
local function publish(ids, state, is_going, view)
  if call('EXISTS', K .. 'awaited') == 0 then return end
  for _, id in ipairs(ids) do
    if call(is_going and 'SISMEMBER' or 'SREM', K .. 'awaited', id) == 1 then
      local text, ended, size = state, view or view_of(id, ''), 0
      for _, value in ipairs(ended[2] or {}) do size = size + #value end
      if ended[1] and (is_going or size < 16384) then text = text .. ' ' .. cjson.encode(ended) end
      if is_going then
        call('SET', K .. 'told:' .. id, text, 'PX', 60000)
        call('SREM', K .. 'awaited', id)
      end
      call('PUBLISH', K .. 'done:' .. id, size < 16384 and text or state)
    end
  end
end

-- A task that waits is deleted: whoever awaits it is told that it will never run.
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

-- The broker itself starts children and firings, and may come to do so twice. One that is known is left out; of one that is no longer
-- kept, a stub makes it known for ten minutes after its end.
local STUB_MS = 600000
local function leave_stub(id) call('SET', K .. 'stub:' .. id, '1', 'PX', STUB_MS) end

-- How long a result is kept: `own` is the task's `ttl`, which anybody may have written.
local function kept_for(own, ttl)
  local asked = tonumber(own or nil)
  return asked and asked >= 0 and asked <= 31536000000000 and asked or ttl
end

-- After an end: the key is released, the result's time begins. The dead set has bounds of its own. Whether the end is to be listed with
-- those of its batch: the dead are not, nor what is kept for a time of its own (both are listed one by one), nor what is not kept.
local function settle(id, state, ttl)
  local t = T .. id
  local own = call('HMGET', t, 'ttl', 'unique', 'child')
  release(id, own[2])
  call('SREM', K .. 'special', id)
  call('SREM', K .. 'cancelled', id)
  if state == 'dead' then
    call('ZADD', K .. 'dead', now, id)
    return false
  end
  local usual = ttl
  ttl = kept_for(own[1], ttl)
  if ttl < 60000 then publish({ id }, state, true) end
  if ttl < STUB_MS and own[3] then leave_stub(id) end
  if ttl == 0 then
    call('UNLINK', t, K .. 'log:' .. id)
    return false
  end
  call('PEXPIREAT', t, int(now + ttl))
  call('PEXPIREAT', K .. 'log:' .. id, int(now + ttl))
  if ttl == usual then return true end
  call('ZADD', K .. 'kept:' .. state, int(now), id)
  call('ZADD', K .. 'kept_until:' .. state, int(now + ttl), id)
  return false
end

-- Ends a task that no attempt ended. Its place is the caller's. It is listed first: when the rest is asked for again, it may have ended.
local function end_waiting(id, state, ttl, kind, message)
  local own = call('HGET', T .. id, 'ttl')
  if state == 'dead' then call('ZADD', K .. 'dead', now, id) elseif kept_for(own, ttl) == ttl then tell({ [state] = { id } }, ttl) end
  local error = string.format('{"kind":"%s","message":"%s"}', kind, message)
  call('HSET', T .. id, 'state', state, 'end', int(now), 'error', error)
  settle(id, state, ttl)
  publish({ id }, state)
end

-- What a worker gets of a task.
local FIELDS = { 'task', 'args', 'at', 'tries', 'losses', 'priority', 'timeout', 'max', 'headers', 'ttl', 'options', 'expires', 'state' }
local function read(id) return call('HMGET', T .. id, unpack(FIELDS)) end

-- The last sixth of a lease is granted by whoever looks at its deadline first, so the deadline is set that much before its end.
local function grace(lease) return math.ceil(lease / 6) end

-- Prolongs the lease of an incarnation that is registered and was not adopted since.
local function prolong(me, lease)
  if call('ZADD', K .. 'workers', 'XX', 'CH', int(now + lease - grace(lease)), me) == 1 then return true end
  -- It is not there, or was prolonged in this very millisecond.
  return call('ZSCORE', K .. 'workers', me) and true
end

-- Takes over what expired incarnations hold, at most 500 tasks and 4 MiB of arguments a call. A deadline with a fraction is one
-- that was looked at before: the first look only marks it so and grants the last sixth of the lease (its length ends the id).
local function adopt(me)
  local found, bytes = {}, 0
  local late = call('ZRANGEBYSCORE', K .. 'workers', '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, 8)
  for i = 1, #late, 2 do
    local other, deadline = late[i], tonumber(late[i + 1])
    if other ~= me and deadline % 1 == 0 then
      local lease = math.min(tonumber(string.match(other, ':(%d+)$')) or 30000, 31536000000)
      call('ZADD', K .. 'workers', 'XX', int(now + grace(lease) - 1) .. '.5', other)
    elseif other ~= me then
      local mine, gone = {}, {}
      for _, member in ipairs(call('SRANDMEMBER', K .. 'held:' .. other, 500)) do
        if #found >= 500 or bytes > 4194304 then break end
        local id = id_in(member)
        local f = read(id)
        gone[#gone + 1] = member
        if is_open(id, f[1], f[13]) then
          bytes = bytes + #(f[2] or '')
          found[#found + 1] = { member, f }
          mine[#mine + 1] = member
        end
      end
      if #mine > 0 then call('SADD', K .. 'held:' .. me, unpack(mine)) end
      if #gone > 0 then call('SREM', K .. 'held:' .. other, unpack(gone)) end
      if call('EXISTS', K .. 'held:' .. other) == 0 then call('ZREM', K .. 'workers', other) end
    end
  end
  return found
end

-- Delayed and retrying tasks that are due become ready, at most 500 a call; how many.
local function promote()
  local due = call('ZRANGEBYSCORE', K .. 'scheduled', '-inf', int(now), 'LIMIT', 0, 500)
  if #due == 0 then return 0 end
  local seq = call('HINCRBY', K .. 'control', 'seq', #due) - #due
  local ready = {}
  for i, id in ipairs(due) do
    local f = call('HMGET', T .. id, 'task', 'state', 'priority')
    if is_open(id, f[1], f[2]) then
      call('HSET', T .. id, 'seq', int(seq + i))
      ready[#ready + 1] = rank(f[3], seq + i)
      ready[#ready + 1] = id
    end
  end
  slices(ready, function(...) call('ZADD', K .. 'ready', ...) end)
  call('ZREM', K .. 'scheduled', unpack(due))
  return #due
end

-- Cancels what has not started by its `expires`, at most 200 a call; how many it looked at.
local function expire(ttl)
  local late = call('ZRANGEBYSCORE', K .. 'expires', '-inf', int(now), 'LIMIT', 0, 200)
  for _, id in ipairs(late) do
    local f = call('HMGET', T .. id, 'task', 'state', 'tries', 'expires')
    if f[1] and not f[2] and not f[3] and f[4] then
      local state, key = place(id, f[1])
      if state then
        end_waiting(id, 'cancelled', ttl, 'expired', 'not started by the time it expires')
        leave_place(state, key, id, f[1])
      end
    end
    call('ZREM', K .. 'expires', id)
  end
  return #late
end

-- Since when somebody holds a task, in microseconds; empty when nobody does. It looks through all held sets.
local function held_since(id)
  for _, inc in ipairs(call('ZRANGE', K .. 'workers', 0, -1)) do
    local cursor = '0'
    repeat
      local page = call('SSCAN', K .. 'held:' .. inc, cursor, 'MATCH', id .. '@*', 'COUNT', 1000)
      if page[2][1] then return string.sub(page[2][1], #id + 2) end
      cursor = page[1]
    until cursor == '0'
  end
  return ''
end

-- What can be seen to be wrong with records that others made, before anything is written: an error that says where, or nothing. They
-- begin with the argument `first`, which says how many they are, or `plain`.
local RULES = {
  id = { '1 to 128 of A-Z a-z 0-9 . _ : / + = -', '^[%w._:/+=%-]+$', 128 },
  task = { 'a letter, then at most 127 of A-Z a-z 0-9 _ . : / -', '^%a[%w_.:/%-]*$', 128 },
  args = { 'a JSON array', '^%[.*%]$', math.huge },
  headers = { 'a JSON array of pairs', '^%[.*%]$', math.huge },
  priority = { '0 to 9', '^%d$', 1 },
  start = { 'empty, +MILLISECONDS or @MILLISECONDS', '^[+@]%d+$', 16 },
  ['unique time'] = { 'a number of milliseconds, at least 1, where there is a unique key', '^[1-9]%d*$', 15 },
  count = { 'the number of pairs that follow', '^%d%d?$', 2 },
  timeout = { 'a number of milliseconds', '^%d+$', 15 },
  max = { 'a number, at least 1', '^[1-9]%d*$', 9 },
  ttl = { 'a number of milliseconds', '^%d+$', 15 },
  expires = { 'a time in milliseconds', '^%d+$', 15 },
  awaited = { '1', '^1$', 1 },
  options = { 'a JSON object', '^{.*}$', math.huge },
}
local FIELD = { task = true, args = true, headers = true, timeout = true, max = true, ttl = true, expires = true, awaited = true, options = true }
local function refusal(first)
  local function no(why) return redis.error_reply('INVALID ' .. why .. '; nothing was enqueued, see docs/protocol.md') end
  local function broken(n, what, value)
    local rule = RULES[what]
    if value and #value <= rule[3] and string.find(value, rule[2]) then return nil end
    return no('record ' .. n .. ': `' .. what .. '` is ' .. rule[1])
  end
  local queue = string.match(K, '{(%w[%w_.%-]*)}:$')
  if not queue or #queue > 64 then return no('the key is PREFIX:{QUEUE}: with the name of a queue') end
  if ARGV[first] == 'plain' then
    if (#ARGV - first) % 3 ~= 0 then return no('a plain task is three arguments: id, task, args') end
    for i = first + 1, #ARGV, 3 do
      local n = (i - first + 2) / 3
      local bad = broken(n, 'id', ARGV[i]) or broken(n, 'task', ARGV[i + 1]) or broken(n, 'args', ARGV[i + 2])
      if bad then return bad end
    end
    return nil
  end
  if not string.find(ARGV[first] or '', '^%d+$') then return no('the first argument is `plain` or the number of records') end
  local i = first + 1
  for n = 1, tonumber(ARGV[first]) do
    local bad = broken(n, 'id', ARGV[i]) or broken(n, 'priority', ARGV[i + 1])
      or (ARGV[i + 2] ~= '' and broken(n, 'start', ARGV[i + 2]))
      or (ARGV[i + 3] ~= '' and broken(n, 'unique time', ARGV[i + 4])) or broken(n, 'count', ARGV[i + 5])
    if bad then return bad end
    local last, seen = i + 4 + 2 * ARGV[i + 5], {}
    for f = i + 6, last, 2 do
      local field = ARGV[f]
      if not FIELD[field] or seen[field] then return no('record ' .. n .. ': a field that a record has not, or one given twice') end
      seen[field] = true
      bad = broken(n, field, ARGV[f + 1])
      if bad then return bad end
    end
    if not seen.task or not seen.args then return no('record ' .. n .. ': `task` and `args` are required') end
    i = last + 2
  end
  if i ~= #ARGV + 1 then return no('there are more arguments than the number of records says') end
end

-- Enqueues `n` records that stand in ARGV from `i`: id, priority, start ('' now, '+ms', '@ms'), unique key or '', its ttl in ms,
-- number of fields, then field and value each. Answers {} when all were added, else {'' or the holder's id…}; and where the next
-- argument stands. The places come first, then the hashes: an id without a hash is dropped by claim, a hash without a place would
-- never run. `extra` in a hash says that there is more to read than the name and arguments. `is_child`: the broker itself starts them,
-- so one that left a stub is known too.
local function admit(i, n, is_child)
  local from, keys, stubs = {}, {}, {}
  for r = 1, n do
    from[r] = i
    keys[r] = T .. ARGV[i]
    if is_child then stubs[r] = K .. 'stub:' .. ARGV[i] end
    i = i + 6 + 2 * ARGV[i + 5]
  end
  local known = 0
  slices(keys, function(...) known = known + call('EXISTS', ...) end)
  slices(stubs, function(...) known = known + call('EXISTS', ...) end)
  local replies, fresh, added, seen, taken = {}, {}, 0, {}, {}
  for r = 1, n do
    local id, key = ARGV[from[r]], ARGV[from[r] + 3]
    local holder = ''
    if seen[id] or (known > 0 and call('EXISTS', keys[r], stubs[r] or keys[r]) > 0) then
      holder = id
    elseif key ~= '' then
      local unique = redis.sha1hex(key)
      local other = taken[unique]
      if not other then
        other = call('GET', K .. 'unique:' .. unique)
        if other and other ~= id then
          local f = call('HMGET', T .. other, 'task', 'state')
          if not f[1] or f[2] then other = nil end
        end
      end
      if other and other ~= id then holder = other else taken[unique] = id end
    end
    replies[r] = holder
    if holder == '' then
      seen[id] = true
      added = added + 1
      fresh[added] = r
    end
  end
  if added == 0 then return replies, i end
  local seq = call('HINCRBY', K .. 'control', 'seq', int(added)) - added
  local ready, scheduled, special, expires, awaited = {}, {}, {}, {}, {}
  for turn = 1, added do
    local a = from[fresh[turn]]
    local id, start, key = ARGV[a], ARGV[a + 2], ARGV[a + 3]
    local due = 0
    if start ~= '' then
      due = tonumber(string.sub(start, 2)) or 0
      if string.sub(start, 1, 1) == '+' then due = now + due end
    end
    if due > now then
      scheduled[#scheduled + 1] = int(due)
      scheduled[#scheduled + 1] = id
    else
      local n = #ready
      ready[n + 1] = rank(ARGV[a + 1], seq + turn)
      ready[n + 2] = id
    end
    local own = key ~= ''
    if own then
      -- Its time counts from when the task may start.
      local lasts = due > now and int(ARGV[a + 4] + due - now) or ARGV[a + 4]
      call('SET', K .. 'unique:' .. redis.sha1hex(key), id, 'PX', lasts)
    end
    if ARGV[a + 5] ~= '2' then
      for f = a + 6, a + 5 + 2 * ARGV[a + 5], 2 do
        if ARGV[f] == 'ttl' then own = true end
        if ARGV[f] == 'awaited' then awaited[#awaited + 1] = id end
        if ARGV[f] == 'expires' then
          expires[#expires + 1] = ARGV[f + 1]
          expires[#expires + 1] = id
        end
      end
    end
    if own then special[#special + 1] = id end
  end
  slices(special, function(...) call('SADD', K .. 'special', ...) end)
  slices(expires, function(...) call('ZADD', K .. 'expires', ...) end)
  slices(awaited, function(...) call('SADD', K .. 'awaited', ...) end)
  slices(ready, function(...) call('ZADD', K .. 'ready', ...) end)
  slices(scheduled, function(...) call('ZADD', K .. 'scheduled', ...) end)
  local at = int(now)
  for turn = 1, added do
    local r = fresh[turn]
    local a, key = from[r], keys[r]
    local priority, unique, count = ARGV[a + 1], ARGV[a + 3], ARGV[a + 5]
    if priority == '5' and unique == '' and count == '2' and not is_child then
      call('HSET', key, 'at', at, 'seq', int(seq + turn), ARGV[a + 6], ARGV[a + 7], ARGV[a + 8], ARGV[a + 9])
    else
      local fields = { 'at', at, 'seq', int(seq + turn), unpack(ARGV, a + 6, a + 5 + 2 * count) }
      local function put(field, value)
        fields[#fields + 1] = field
        fields[#fields + 1] = value
      end
      if priority ~= '5' then put('priority', priority) end
      if priority ~= '5' or count ~= '2' then put('extra', '1') end
      if is_child then put('child', '1') end
      if unique ~= '' then
        put('unique', redis.sha1hex(unique))
        put('unique_ttl', ARGV[a + 4])
      end
      call('HSET', key, unpack(fields))
    end
  end
  wake()
  return added == n and {} or replies, i
end

-- The same for `n` tasks that are nothing but id, name and arguments: a third of the words, and nothing to be decided for each.
local function admit_plain(i, n)
  local keys, known = {}, 0
  for r = 1, n do keys[r] = T .. ARGV[i + 3 * (r - 1)] end
  slices(keys, function(...) known = known + call('EXISTS', ...) end)
  -- Numbers of those that turn out to be known are left out.
  local seq = call('HINCRBY', K .. 'control', 'seq', int(n)) - n
  local replies, ready, fresh, added, seen = {}, {}, {}, 0, {}
  for r = 1, n do
    local id = ARGV[i + 3 * (r - 1)]
    if seen[id] or (known > 0 and call('EXISTS', keys[r]) == 1) then
      replies[r] = id
    else
      replies[r] = ''
      seen[id] = true
      ready[2 * added + 1], ready[2 * added + 2] = rank(5, seq + r), id
      added = added + 1
      fresh[added] = r
    end
  end
  if added == 0 then return replies end
  slices(ready, function(...) call('ZADD', K .. 'ready', ...) end)
  local at = int(now)
  for turn = 1, added do
    local r = fresh[turn]
    local a = i + 3 * (r - 1)
    call('HSET', keys[r], 'at', at, 'seq', int(seq + r), 'task', ARGV[a + 1], 'args', ARGV[a + 2])
  end
  wake()
  return added == n and {} or replies
end
