-- adopt: takes over what expired incarnations hold, at most 500 tasks and 4 MiB of arguments a call. Returns {member, fields}…
-- needs: base, lease, member, is_open, read_task
-- An incarnation is taken over the second time it is found late. The first time, its deadline is moved by the last sixth of its lease,
-- and gets a fraction as a mark. The length of the lease ends the incarnation's id.
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
        local f = read_task(id)
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
