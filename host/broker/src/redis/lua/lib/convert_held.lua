-- convert_held: brings what an incarnation of schema 1 holds into the form of schema 2.
-- needs: base, free_stamp
-- Schema 1 had a set `held:<incarnation>` of members `<id>@<claim time µs>`, at most as many as a worker has slots. The set goes last, so
-- a repeated call writes the same.
local function convert_held(incarnation)
  local held, hold, of = K .. 'held:' .. incarnation, K .. 'hold:' .. incarnation, {}
  for _, member in ipairs(call('SMEMBERS', held)) do
    local id, us = string.match(member, '^(.*)@(%d+)$')
    id, us = id or member, us and #us <= 16 and us or '0'
    of[us] = of[us] or {}
    table.insert(of[us], id)
  end
  for us, ids in pairs(of) do put_claim(hold, us, ids) end
  call('UNLINK', held)
end
