-- retry: a dead or cancelled task is ready again with a fresh count of tries. A delayed or retrying task is ready at once.
-- KEYS    1 th:{Q}:
-- ARGV    1 id
-- RETURNS 'unknown', 'ready', 'duplicate' and the holder, or 'state' and the state it is in
-- needs: base, place, unlist, rank, tell_flow, wake
local id = ARGV[1]
local t = T .. id
local f = call('HMGET', t, 'task', 'state', 'tries', 'priority', 'unique', 'unique_ttl', 'ttl', 'expires', 'flow')
if not f[1] and call('EXISTS', t) == 0 then return { 'unknown' } end
if f[2] == 'succeeded' then return { 'state', f[2] } end
local state, key
if not f[2] then
  state, key = place(id, f[1] or '')
  if state ~= 'scheduled' then return { 'state', state or 'running' } end
elseif f[5] then
  local holder = call('GET', K .. 'unique:' .. f[5])
  if holder and holder ~= id then
    local h = call('HMGET', T .. holder, 'task', 'state')
    if h[1] and not h[2] then return { 'duplicate', holder } end
  end
  call('SET', K .. 'unique:' .. f[5], id, 'PX', string.match(f[6] or '', '^[1-9]%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') or 3600000)
end
if f[2] then unlist(id, f[2]) end
local seq = call('HINCRBY', K .. 'control', 'seq', 1)
call('HINCRBY', K .. 'control', 'spare', 1)
call('PERSIST', t)
call('PERSIST', K .. 'log:' .. id)
if f[2] and (f[5] or f[7] or f[9] or call('EXISTS', K .. 'log:' .. id) == 1) then call('SADD', K .. 'special', id) end
call('ZADD', K .. 'ready', rank(f[4], seq), id)
call('HSET', t, 'seq', int(seq))
if f[2] then
  call('HDEL', t, 'state', 'end', 'error', 'tries', 'losses', 'expires', 'progress')
  call('ZREM', K .. 'dead', id)
  if f[9] then tell_flow(f[9], 'R') end
else
  -- The caller wants it to run, also after its `expires`.
  if f[8] and (tonumber(f[8]) or 0) <= now then call('HDEL', t, 'expires') end
  leave_place(state, key, id, f[1] or '')
end
wake()
return { 'ready' }
