-- held: the tasks of an incarnation, at most 200 a call, oldest claim first. A place whose task is gone is left.
-- KEYS    1 th:{Q}:
-- ARGV    1 incarnation   2 the last stamp and place of the call before, with a space between, or empty
-- RETURNS {the same of this call, or empty at the end; {id, stamp, place, fields}…}
-- needs: base, places, claims_of, is_running, read_task
local hold, found = K .. 'hold:' .. ARGV[1], {}
local stamp, last = string.match(ARGV[2], '^(%d+) (%d+)$')
stamp, last = tonumber(stamp) or 0, tonumber(last) or -1
for _, claim in ipairs(claims_of(ARGV[1])) do
  local at, words, is_changed = tonumber(claim[1]), claim[3], false
  for spot = at == stamp and last + 1 or 0, at < stamp and -1 or #claim[2] - 1 do
    if #found == 200 then break end
    if is_held_at(words, spot) then
      local id = claim[2][spot + 1]
      local f = read_task(id)
      if is_running(id, f[1], f[16]) then
        found[#found + 1] = { id, claim[1], spot, f }
      else
        leave_at(words, spot)
        is_changed = true
      end
    end
  end
  if is_changed then put_places(hold, claim[1], words) end
end
local final = found[200]
return { final and final[2] .. ' ' .. final[3] or '', found }
