-- settle: what every end brings with it: the unique key is free, and the result's time starts. Returns whether the end is to be listed
-- with its batch.
-- needs: base, release, publish, stub
-- The dead set has bounds of its own. A task with a `ttl` of its own is listed by itself. A task that is not kept is not listed.
-- How long a result is kept. `own` is the task's `ttl`, which another program may have written.
local function kept_for(own, ttl)
  local asked = tonumber(own or nil)
  return asked and asked >= 0 and asked <= 31536000000000 and asked or ttl
end

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
