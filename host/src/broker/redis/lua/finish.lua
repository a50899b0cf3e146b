-- finish: record what became of attempts, and what follows from it.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 incarnation   3 ms to keep `by`   4 number of `by`, then name and value each
--         then number of finishes, then 8 each: member, kind, result or error, history entry, delay ms, by, log, length of its children
--         kind: S succeeded, R retry, L retry after a loss, D dead, W dead after a loss, C cancelled, H handed back, P parked
--         then the children of each: number of records of this queue, the records (see `admit`), then queue and record as JSON each
-- RETURNS {0 stale | 1 recorded | 2 cancelled instead…} in the order given
local ttl, me = tonumber(ARGV[1]), ARGV[2]
local held = K .. 'held:' .. me
local a = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('SET', K .. 'by:' .. ARGV[a], ARGV[a + 1], 'PX', ARGV[3])
  a = a + 2
end
local n, first = tonumber(ARGV[a]), a + 1

local members, ids = {}, {}
for i = 1, n do
  members[i] = ARGV[first + 8 * (i - 1)]
  ids[i] = id_of(members[i])
end
local is_held, reply, done = {}, {}, {}
slices(members, function(...)
  for _, is in ipairs(redis.call('SMISMEMBER', held, ...)) do is_held[#is_held + 1] = is end
end)
-- One look a batch decides whether anything out of the ordinary must be looked for.
local special, cancelled = {}, {}
if redis.call('EXISTS', K .. 'special', K .. 'cancelled') > 0 then
  slices(ids, function(...)
    for i, is in ipairs(redis.call('SMISMEMBER', K .. 'special', ...)) do special[({ ... })[i]] = is == 1 end
    for i, is in ipairs(redis.call('SMISMEMBER', K .. 'cancelled', ...)) do cancelled[({ ... })[i]] = is == 1 end
  end)
end

local at, ended, waking = int(now), {}, false
local function note_end(id, state)
  local list = ended[state]
  if not list then
    list = {}
    ended[state] = list
  end
  list[#list + 1] = id
end

-- The newest 64 KiB, whole lines.
local function keep_log(id, text)
  local key = K .. 'log:' .. id
  if redis.call('APPEND', key, text) > 65536 then
    local tail = redis.call('GETRANGE', key, -65536, -1)
    local cut = string.find(tail, '\n', 1, true)
    if cut and cut < #tail then tail = string.sub(tail, cut + 1) end
    redis.call('SET', key, tail)
  end
end

-- Children of this queue come to be here; those of others go through the outbox.
local function beget(from, length)
  if length == 0 then return end
  local _, after = admit(from + 1, tonumber(ARGV[from]))
  for i = after, from + length - 1, 2 do redis.call('XADD', K .. 'out', '*', 'queue', ARGV[i], 'record', ARGV[i + 1]) end
end

-- Everything but the plain success.
local function other(id, kind, data, entry, delay, by, start)
  local t = K .. 't:' .. id
  local f = redis.call('HMGET', t, 'task', 'state', 'tries', 'losses', 'priority', 'seq', 'errors')
  if not f[1] or f[2] then return 0 end
  local code = 1
  local state, error = nil, data
  if kind == 'D' or kind == 'W' then state = 'dead' elseif kind == 'C' then state = 'cancelled' end
  if cancelled[id] and kind ~= 'D' and kind ~= 'C' then
    state, code, error = 'cancelled', 2, '{"kind":"cancelled","message":"cancelled while it ran"}'
  end
  local set = {}
  local function put(field, value)
    set[#set + 1] = field
    set[#set + 1] = value
  end
  if entry ~= '' then
    local tries, errors = (tonumber(f[3]) or 0) + 1, tonumber(f[7]) or 0
    put('tries', tries)
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
    redis.call('HSET', t, unpack(set))
    settle(id, state, ttl)
    note_end(id, state)
    return code
  end
  local due = now + delay
  if kind == 'P' then
    redis.call('ZADD', K .. 'parked:' .. f[1], rank(f[5], tonumber(f[6]) or 0), id)
    redis.call('ZADD', K .. 'parked_at:' .. f[1], at, id)
    redis.call('SADD', K .. 'parked', f[1])
  elseif delay > 0 then
    redis.call('ZADD', K .. 'scheduled', int(due), id)
  else
    local seq = tonumber(f[6]) or 0
    if kind ~= 'H' then
      seq = redis.call('HINCRBY', K .. 'control', 'seq', 1)
      put('seq', int(seq))
    end
    redis.call('ZADD', K .. 'ready', rank(f[5], seq), id)
  end
  if #set > 0 then redis.call('HSET', t, unpack(set)) end
  redis.call('HDEL', t, 'progress')
  waking = true
  return code
end

local children = first + 8 * n
for i = 1, n do
  local f = first + 8 * (i - 1)
  local id, kind, log, length = ids[i], ARGV[f + 1], ARGV[f + 6], tonumber(ARGV[f + 7])
  if is_held[i] == 0 or done[members[i]] then
    reply[i] = 0
  else
    done[members[i]] = true
    if log ~= '' then
      keep_log(id, log)
      if not special[id] then
        special[id] = true
        redis.call('SADD', K .. 'special', id)
      end
    end
    local start = string.sub(members[i], #id + 2, -4)
    if kind == 'S' then
      local t = K .. 't:' .. id
      beget(children, length)
      redis.call('HSET', t, 'state', 'succeeded', 'end', at, 'start', start, 'result', ARGV[f + 2], 'by', ARGV[f + 5])
      if special[id] or cancelled[id] or ttl == 0 then settle(id, 'succeeded', ttl) else redis.call('PEXPIRE', t, ttl) end
      note_end(id, 'succeeded')
      reply[i] = 1
    else
      reply[i] = other(id, kind, ARGV[f + 2], ARGV[f + 3], tonumber(ARGV[f + 4]), ARGV[f + 5], start)
    end
  end
  children = children + length
end
for state, list in pairs(ended) do publish(list, state) end
tell(ended)
local left = {}
for member in pairs(done) do left[#left + 1] = member end
slices(left, function(...) redis.call('SREM', held, ...) end)
if waking then wake() end
return reply
