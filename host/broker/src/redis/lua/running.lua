-- running: the attempts that the incarnations of a queue hold. There are no more than slots of the live workers.
-- KEYS    1 th:{Q}:
-- RETURNS {<id>@<claim time µs>…}
-- needs: base, claims_of
local found = {}
for _, incarnation in ipairs(call('ZRANGE', K .. 'workers', 0, -1)) do
  for _, held in ipairs(held_by(incarnation)) do found[#found + 1] = held[1] .. '@' .. held[2] end
end
return found
