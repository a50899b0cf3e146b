-- What the verbs share; put before each of them. KEYS[1] is the queue's prefix `th:{Q}:`, and every key is built under it.
-- No script rolls back: check first, write the new place next, leave the old place last; then an error midway leaves a task
-- in two places, never in none, and the call may be repeated. `unpack` takes at most 1,000 ids a call.

local K = KEYS[1]
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

-- Lua writes numbers of 15 digits and more as 1e+15.
local function int(n) return string.format('%.0f', n) end

local function slices(list, f)
  for i = 1, #list, 1000 do f(unpack(list, i, math.min(i + 999, #list))) end
end

-- One waiter of BZPOPMIN leaves its sleep.
local function wake() redis.call('ZADD', K .. 'wake', 0, 'w') end

-- The score in `ready`: priority, then sequence.
local function rank(priority, seq) return int((9 - (tonumber(priority) or 5)) * 1e14 + seq) end

local function id_of(member) return string.sub(member, 1, string.find(member, '@', 1, true) - 1) end

-- Where a task waits: the state and its key; nil when it runs.
local function place(id, name)
  if redis.call('ZSCORE', K .. 'ready', id) then return 'ready', K .. 'ready' end
  local due = redis.call('ZSCORE', K .. 'scheduled', id)
  if due then return 'scheduled', K .. 'scheduled', due end
  if redis.call('ZSCORE', K .. 'parked:' .. name, id) then return 'parked', K .. 'parked:' .. name end
end

-- Leaves a waiting place; `parked` is the set of names under which something is parked.
local function leave_place(state, key, id, name)
  redis.call('ZREM', key, id)
  if state == 'parked' then
    redis.call('ZREM', K .. 'parked_at:' .. name, id)
    if redis.call('EXISTS', key) == 0 then redis.call('SREM', K .. 'parked', name) end
  end
end

local function release(id, unique)
  if unique and redis.call('GET', K .. 'unique:' .. unique) == id then redis.call('DEL', K .. 'unique:' .. unique) end
end

-- One entry a batch: the feed of endings, bounded, may be incomplete.
local function tell(ended)
  local entry = { 'at', int(now) }
  for state, ids in pairs(ended) do
    entry[#entry + 1] = state
    entry[#entry + 1] = table.concat(ids, ' ')
  end
  if #entry > 2 then redis.call('XADD', K .. 'events', 'MAXLEN', '~', 2000, '*', unpack(entry)) end
end

-- Whoever awaits one of them is told.
local function publish(ids, state)
  if redis.call('EXISTS', K .. 'awaited') == 0 then return end
  for _, id in ipairs(ids) do
    if redis.call('SREM', K .. 'awaited', id) == 1 then redis.call('PUBLISH', K .. 'done:' .. id, state) end
  end
end

-- After an end: the key is released, the result's time begins. The dead set has bounds of its own.
local function settle(id, state, ttl)
  local t = K .. 't:' .. id
  local own = redis.call('HMGET', t, 'ttl', 'unique')
  release(id, own[2])
  redis.call('SREM', K .. 'special', id)
  redis.call('SREM', K .. 'cancelled', id)
  if state == 'dead' then
    redis.call('ZADD', K .. 'dead', now, id)
    return
  end
  ttl = tonumber(own[1]) or ttl
  if ttl == 0 then
    redis.call('UNLINK', t, K .. 'log:' .. id)
  else
    redis.call('PEXPIRE', t, int(ttl))
    redis.call('PEXPIRE', K .. 'log:' .. id, int(ttl))
  end
end

-- Ends a task that no attempt ended. Its place is the caller's.
local function end_waiting(id, state, ttl, kind, message)
  local error = string.format('{"kind":"%s","message":"%s"}', kind, message)
  redis.call('HSET', K .. 't:' .. id, 'state', state, 'end', int(now), 'error', error)
  settle(id, state, ttl)
  publish({ id }, state)
  tell({ [state] = { id } })
end

-- What a worker gets of a task.
local FIELDS = { 'task', 'args', 'at', 'tries', 'losses', 'priority', 'timeout', 'max', 'headers', 'expires', 'state' }
local function read(id) return redis.call('HMGET', K .. 't:' .. id, unpack(FIELDS)) end

-- Prolongs the lease of an incarnation that is registered and was not adopted since.
local function prolong(me, lease)
  if not redis.call('ZSCORE', K .. 'workers', me) then return false end
  redis.call('ZADD', K .. 'workers', 'XX', int(now + lease), me)
  return true
end

-- Takes over what expired incarnations hold, at most 500 tasks and 4 MiB of arguments a call. A deadline with a fraction is one
-- that was looked at before: the first look only marks it so and grants a last sixth of the lease (its length ends the id).
local function adopt(me)
  local found, bytes = {}, 0
  local late = redis.call('ZRANGEBYSCORE', K .. 'workers', '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, 8)
  for i = 1, #late, 2 do
    local other, deadline = late[i], tonumber(late[i + 1])
    if other ~= me and deadline % 1 == 0 then
      local grace = math.ceil((tonumber(string.match(other, ':(%d+)$')) or 30000) / 6)
      redis.call('ZADD', K .. 'workers', 'XX', int(now + grace - 1) .. '.5', other)
    elseif other ~= me then
      local mine, gone = {}, {}
      for _, member in ipairs(redis.call('SRANDMEMBER', K .. 'held:' .. other, 500)) do
        if #found >= 500 or bytes > 4194304 then break end
        local f = read(id_of(member))
        gone[#gone + 1] = member
        if f[1] and not f[11] then
          bytes = bytes + #f[2]
          found[#found + 1] = { member, f }
          mine[#mine + 1] = member
        end
      end
      if #mine > 0 then redis.call('SADD', K .. 'held:' .. me, unpack(mine)) end
      if #gone > 0 then redis.call('SREM', K .. 'held:' .. other, unpack(gone)) end
      if redis.call('EXISTS', K .. 'held:' .. other) == 0 then redis.call('ZREM', K .. 'workers', other) end
    end
  end
  return found
end

-- Delayed and retrying tasks that are due become ready, at most 500 a call; how many.
local function promote()
  local due = redis.call('ZRANGEBYSCORE', K .. 'scheduled', '-inf', int(now), 'LIMIT', 0, 500)
  if #due == 0 then return 0 end
  local seq = redis.call('HINCRBY', K .. 'control', 'seq', #due) - #due
  local ready = {}
  for i, id in ipairs(due) do
    local f = redis.call('HMGET', K .. 't:' .. id, 'task', 'state', 'priority')
    if f[1] and not f[2] then
      redis.call('HSET', K .. 't:' .. id, 'seq', int(seq + i))
      ready[#ready + 1] = rank(f[3], seq + i)
      ready[#ready + 1] = id
    end
  end
  slices(ready, function(...) redis.call('ZADD', K .. 'ready', ...) end)
  redis.call('ZREM', K .. 'scheduled', unpack(due))
  return #due
end

-- Cancels what has not started by its `expires`, at most 200 a call; how many it looked at.
local function expire(ttl)
  local late = redis.call('ZRANGEBYSCORE', K .. 'expires', '-inf', int(now), 'LIMIT', 0, 200)
  for _, id in ipairs(late) do
    local f = redis.call('HMGET', K .. 't:' .. id, 'task', 'state', 'tries', 'expires')
    if f[1] and not f[2] and not f[3] and f[4] then
      local state, key = place(id, f[1])
      if state then
        end_waiting(id, 'cancelled', ttl, 'expired', 'not started by the time it expires')
        leave_place(state, key, id, f[1])
      end
    end
    redis.call('ZREM', K .. 'expires', id)
  end
  return #late
end

-- Enqueues `n` records that stand in ARGV from `i`: id, priority, start ('' now, '+ms', '@ms'), unique key or '', its ttl in ms,
-- number of fields, then field and value each. Answers {'' or the holder's id…} and where the next argument stands.
-- The places come first, then the hashes: an id without a hash is dropped by claim, a hash without a place would never run.
local function admit(i, n)
  local from, keys = {}, {}
  for r = 1, n do
    from[r] = i
    keys[r] = K .. 't:' .. ARGV[i]
    i = i + 6 + 2 * tonumber(ARGV[i + 5])
  end
  local known = 0
  slices(keys, function(...) known = known + redis.call('EXISTS', ...) end)
  local replies, fresh, seen, taken = {}, {}, {}, {}
  for r = 1, n do
    local id, key = ARGV[from[r]], ARGV[from[r] + 3]
    local holder = ''
    if seen[id] or (known > 0 and redis.call('EXISTS', keys[r]) == 1) then
      holder = id
    elseif key ~= '' then
      local unique = redis.sha1hex(key)
      local other = taken[unique]
      if not other then
        other = redis.call('GET', K .. 'unique:' .. unique)
        if other and other ~= id then
          local f = redis.call('HMGET', K .. 't:' .. other, 'task', 'state')
          if not f[1] or f[2] then other = nil end
        end
      end
      if other and other ~= id then holder = other else taken[unique] = id end
    end
    replies[r] = holder
    if holder == '' then
      seen[id] = true
      fresh[#fresh + 1] = r
    end
  end
  if #fresh == 0 then return replies, i end

  local seq = redis.call('HINCRBY', K .. 'control', 'seq', #fresh) - #fresh
  local ready, scheduled, special, expires = {}, {}, {}, {}
  for turn, r in ipairs(fresh) do
    local a = from[r]
    local id, start, key = ARGV[a], ARGV[a + 2], ARGV[a + 3]
    local due = tonumber(string.sub(start, 2)) or 0
    if string.sub(start, 1, 1) == '+' then due = now + due end
    if due > now then
      scheduled[#scheduled + 1] = int(due)
      scheduled[#scheduled + 1] = id
    else
      ready[#ready + 1] = rank(ARGV[a + 1], seq + turn)
      ready[#ready + 1] = id
    end
    local own = key ~= ''
    if own then redis.call('SET', K .. 'unique:' .. redis.sha1hex(key), id, 'PX', ARGV[a + 4]) end
    for f = a + 6, a + 5 + 2 * tonumber(ARGV[a + 5]), 2 do
      if ARGV[f] == 'ttl' then own = true end
      if ARGV[f] == 'expires' then
        expires[#expires + 1] = ARGV[f + 1]
        expires[#expires + 1] = id
      end
    end
    if own then special[#special + 1] = id end
  end
  slices(special, function(...) redis.call('SADD', K .. 'special', ...) end)
  slices(expires, function(...) redis.call('ZADD', K .. 'expires', ...) end)
  slices(ready, function(...) redis.call('ZADD', K .. 'ready', ...) end)
  slices(scheduled, function(...) redis.call('ZADD', K .. 'scheduled', ...) end)
  local at = int(now)
  for turn, r in ipairs(fresh) do
    local a = from[r]
    redis.call('HSET', keys[r], 'at', at, 'seq', int(seq + turn), unpack(ARGV, a + 6, a + 5 + 2 * tonumber(ARGV[a + 5])))
    if ARGV[a + 1] ~= '5' then redis.call('HSET', keys[r], 'priority', ARGV[a + 1]) end
    if ARGV[a + 3] ~= '' then
      redis.call('HSET', keys[r], 'unique', redis.sha1hex(ARGV[a + 3]), 'unique_ttl', ARGV[a + 4])
    end
  end
  wake()
  return replies, i
end
