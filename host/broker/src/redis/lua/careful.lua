-- careful: stands before a verb that met a key of the wrong type, and takes the place of redis.call. It moves the key to
-- th:{Q}:aside:<name>, and the verb goes on without it. Only such a verb pays for it.
-- USES    keeps_tasks: whether a key in a task's place is left there. Then the call fails, until somebody mends the key.
-- GIVES   put_aside(key), careful(command…), set_aside: the keys that it moved
local base, set_aside = KEYS[1], {}
local careful
local function put_aside(key)
  local name = string.sub(key, #base + 1)
  set_aside[#set_aside + 1] = key
  redis.call('RENAME', key, base .. 'aside:' .. name)
  careful('SADD', base .. 'aside', name)
  -- The key was in a task's place: a dead task takes it, so that somebody sees it and can delete it.
  local id = string.match(name, '^t:([%w._:/+=%-]+)$')
  if id and #id <= 128 then
    local clock = redis.call('TIME')
    local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
    redis.call('HSET', key, 'task', 'unreadable', 'args', '[]', 'at', now, 'end', now, 'state', 'dead',
      'error', '{"kind":"unreadable","message":"a key of another kind stood in its place and was set aside"}')
    careful('ZADD', base .. 'dead', now, id)
  end
end
careful = function(...)
  local reply = redis.pcall(...)
  local why = type(reply) == 'table' and reply.err
  if not why then return reply end
  local verb, key, field = ...
  if keeps_tasks and string.sub(key, #base + 1, #base + 2) == 't:' then return redis.call(...) end
  if string.find(why, 'WRONGTYPE', 1, true) or (verb == 'XADD' and string.find(why, 'stream', 1, true)) then
    put_aside(key)
  elseif verb == 'HINCRBY' and (string.find(why, 'integer', 1, true) or string.find(why, 'overflow', 1, true)) then
    -- The field is the last sequence number. The number of the last ready task is near enough.
    local tail = redis.pcall('ZRANGE', base .. 'ready', '-1', '-1', 'WITHSCORES')
    local last = (tonumber(tail[2]) or 0) % 1e14
    set_aside[#set_aside + 1] = key
    redis.call('HSET', key, field, last >= 0 and string.format('%.0f', last) or '0')
  elseif verb == 'INCRBY' then
    redis.call('DEL', key)
  end
  return redis.call(...)
end
