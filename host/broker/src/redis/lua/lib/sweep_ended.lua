-- sweep_ended: removes ended tasks whose time is over, batch by batch, the oldest first. Returns how many it looked at, at most about `most`.
-- needs: base, slices, kept_until
-- `group` is `<state>:<ttl>`. A task that `left` names may have another life under the same id. So it is looked at before it is removed.
local function sweep_ended(group, most)
  local key, left = K .. 'ended:' .. group, K .. 'left:' .. group
  local over = int(math.max(now - (tonumber(string.match(group, '%d+$')) or 0) - 1, 0))
  local seen, has_left = 0, nil
  while seen < most do
    local entry = call('XRANGE', key, '-', over, 'COUNT', '1')[1]
    if not entry then break end
    local keys, members = {}, {}
    -- In the field `ids` are tasks whose keys expire by themselves.
    if entry[2][5] == 'kept' then
      if has_left == nil then has_left = call('EXISTS', left) == 1 end
      for id in string.gmatch(entry[2][6], '%S+') do
        keys[#keys + 1] = T .. id
        if has_left then members[#members + 1] = id .. '@' .. entry[2][2] end
      end
    end
    if has_left then
      local all, stays, n = keys, {}, 0
      slices(members, function(...)
        for _, score in ipairs(call('ZMSCORE', left, ...)) do
          n = n + 1
          if score then
            local f = call('HMGET', all[n], 'state', 'done')
            stays[n] = not is_gone(f[1], f[2])
          end
        end
      end)
      keys = {}
      for i = 1, #all do
        if not stays[i] then keys[#keys + 1] = all[i] end
      end
    end
    slices(keys, function(...) call('UNLINK', ...) end)
    call('XDEL', key, entry[1])
    seen = seen + #keys + 1
  end
  return seen
end
