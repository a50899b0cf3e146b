-- admit: enqueues `n` records, which stand in `args` from place `i`.
-- needs: base, slices, rank, is_known, wake
-- A record: id, priority, start ('' now, '+ms', '@ms'), unique key or '', its ttl in ms, number of fields, then field and value each.
-- RETURNS {} if all were added, else for each record '' or the id that holds its place; and the place of the next argument.
-- `is_child`: the broker itself starts these tasks, so an id that left a stub is known too.
-- Places are written before hashes. `claim` drops an id without a hash, but a hash without a place would never run. The field `extra`
-- says that a claim must read more than the name and arguments: `t` for `tp` and `bg` alone, `1` for any.
local function admit(args, i, n, is_child)
  local from, keys, stubs = {}, {}, {}
  for r = 1, n do
    from[r] = i
    keys[r] = T .. args[i]
    if is_child then stubs[r] = K .. 'stub:' .. args[i] end
    i = i + 6 + 2 * args[i + 5]
  end
  local known = 0
  slices(keys, function(...) known = known + call('EXISTS', ...) end)
  slices(stubs, function(...) known = known + call('EXISTS', ...) end)
  local replies, fresh, added, seen, taken = {}, {}, 0, {}, {}
  for r = 1, n do
    local id, key = args[from[r]], args[from[r] + 3]
    local holder = ''
    if seen[id] or (known > 0 and (is_known(id) or (stubs[r] and call('EXISTS', stubs[r]) == 1))) then
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
  local ready, scheduled, special, expires, awaited, extra = {}, {}, {}, {}, {}, {}
  for turn = 1, added do
    local a = from[fresh[turn]]
    local id, start, key = args[a], args[a + 2], args[a + 3]
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
      ready[n + 1] = rank(args[a + 1], seq + turn)
      ready[n + 2] = id
    end
    local own = key ~= ''
    if own then
      -- The key's time starts when the task may start.
      local lasts = due > now and int(args[a + 4] + due - now) or args[a + 4]
      call('SET', K .. 'unique:' .. redis.sha1hex(key), id, 'PX', lasts)
    end
    if args[a + 1] ~= '5' then extra[turn] = '1' end
    if args[a + 5] ~= '2' then
      for f = a + 6, a + 5 + 2 * args[a + 5], 2 do
        local field = args[f]
        if field == 'tp' or field == 'bg' then
          extra[turn] = extra[turn] or 't'
        elseif field ~= 'task' and field ~= 'args' and field ~= 'awaited' then
          extra[turn] = '1'
        end
        if field == 'ttl' or field == 'flow' then own = true end
        if field == 'awaited' then awaited[#awaited + 1] = id end
        if field == 'expires' then
          expires[#expires + 1] = args[f + 1]
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
    local priority, unique, count = args[a + 1], args[a + 3], args[a + 5]
    if priority == '5' and unique == '' and count == '2' and not is_child then
      call('HSET', key, 'at', at, 'seq', int(seq + turn), args[a + 6], args[a + 7], args[a + 8], args[a + 9])
    else
      local fields = { 'at', at, 'seq', int(seq + turn), unpack(args, a + 6, a + 5 + 2 * count) }
      local function put(field, value)
        fields[#fields + 1] = field
        fields[#fields + 1] = value
      end
      if priority ~= '5' then put('priority', priority) end
      if extra[turn] then put('extra', extra[turn]) end
      if is_child then put('child', '1') end
      if unique ~= '' then
        put('unique', redis.sha1hex(unique))
        put('unique_ttl', args[a + 4])
      end
      call('HSET', key, unpack(fields))
    end
  end
  wake()
  return added == n and {} or replies, i
end
