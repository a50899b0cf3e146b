-- held_since: when the task was claimed, in microseconds; empty if no incarnation holds it. It searches all claims.
-- needs: base, claims_of
local function held_since(id)
  for _, incarnation in ipairs(call('ZRANGE', K .. 'workers', 0, -1)) do
    for _, held in ipairs(held_by(incarnation)) do
      if held[1] == id then return held[2] end
    end
  end
  return ''
end
