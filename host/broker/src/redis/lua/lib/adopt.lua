-- adopt: takes over what expired incarnations hold, at most 500 tasks and 4 MiB of arguments a call. Returns {id, stamp, place, fields}…
-- needs: base, lease, free_stamp, places, claims_of, convert_held, is_running, read_task
-- An incarnation is taken over the second time it is found late. The first time, its deadline is moved by the last sixth of its lease,
-- and gets a fraction as a mark. The length of the lease ends the incarnation's id.
local function adopt(me)
  local found, bytes, mine, own = {}, 0, K .. 'hold:' .. me, nil
  local late = call('ZRANGEBYSCORE', K .. 'workers', '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, 8)
  for i = 1, #late, 2 do
    local other, deadline = late[i], tonumber(late[i + 1])
    if other ~= me and deadline % 1 == 0 then
      local lease = math.min(tonumber(string.match(other, ':(%d+)$')) or 30000, 31536000000)
      call('ZADD', K .. 'workers', 'XX', int(now + grace(lease) - 1) .. '.5', other)
    elseif other ~= me then
      -- A call that broke off may have taken a task over and left it there too.
      if not own then
        own = {}
        for _, held in ipairs(held_by(me)) do own[held[1]] = true end
      end
      local theirs, is_whole = K .. 'hold:' .. other, true
      convert_held(other)
      for _, claim in ipairs(claims_of(other)) do
        if not is_whole then break end
        local ids, words = {}, claim[3]
        local stamp = free_stamp(mine, tonumber(claim[1]))
        for spot = 0, #claim[2] - 1 do
          if #found >= 500 or bytes > 4194304 then
            is_whole = false
            break
          end
          if is_held_at(words, spot) then
            local id = claim[2][spot + 1]
            local f = read_task(id)
            if not own[id] and is_running(id, f[1], f[16]) then
              own[id] = true
              bytes = bytes + #(f[2] or '')
              found[#found + 1] = { id, stamp, #ids, f }
              ids[#ids + 1] = id
            end
            leave_at(words, spot)
          end
        end
        if #ids > 0 then put_claim(mine, stamp, ids) end
        put_places(theirs, claim[1], words)
      end
      if is_whole then call('ZREM', K .. 'workers', other) end
    end
  end
  return found
end
