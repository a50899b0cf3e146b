-- claims_of: the claims of an incarnation of which anything is held, oldest first: {stamp, ids, words}…, see free_stamp.
-- needs: base, places
-- What can't be read, because another program wrote it, is removed.
local function claims_of(incarnation)
  local hold = K .. 'hold:' .. incarnation
  local all, fields, claims, odd = call('HGETALL', hold), {}, {}, {}
  for i = 1, #all, 2 do fields[all[i]] = all[i + 1] end
  for field, text in pairs(fields) do
    local stamp, open = string.match(field, '^%d+$'), fields[field .. ':open']
    if stamp and #stamp <= 16 and open and #open <= 4000 then
      local can_read, ids = pcall(cmsgpack.unpack, text)
      can_read = can_read and type(ids) == 'table' and #open / 4 == math.ceil(#ids / 32)
      for _, id in ipairs(can_read and ids or {}) do can_read = can_read and type(id) == 'string' end
      if can_read then claims[#claims + 1] = { stamp, ids, words_of(open) } else odd[#odd + 1] = field end
    elseif not (string.match(field, '^%d+:open$') and fields[string.sub(field, 1, -6)]) then
      odd[#odd + 1] = field
    end
  end
  for _, field in ipairs(odd) do call('HDEL', hold, field, field .. ':open') end
  table.sort(claims, function(a, b) return tonumber(a[1]) < tonumber(b[1]) end)
  return claims
end

-- What an incarnation holds: the id and the claim time of each task.
local function held_by(incarnation)
  local held = {}
  for _, claim in ipairs(claims_of(incarnation)) do
    for spot = 0, #claim[2] - 1 do
      if is_held_at(claim[3], spot) then held[#held + 1] = { claim[2][spot + 1], claim[1] } end
    end
  end
  -- Under schema 1 it was a set of members `<id>@<claim time µs>`.
  for _, member in ipairs(call('SMEMBERS', K .. 'held:' .. incarnation)) do
    local id, us = string.match(member, '^(.*)@(%d+)$')
    held[#held + 1] = { id or member, us or '0' }
  end
  return held
end
