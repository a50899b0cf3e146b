-- waiting: the tasks of one waiting place, in its order, from a place in it on.
-- KEYS    1 th:{Q}:
-- ARGV    1 ready, scheduled or parked:<name>   2 how many   3 score and 4 id of the last one before, or empty
-- RETURNS {id, score…}
-- needs: base, standing
local key, from = K .. ARGV[1], 0
if ARGV[3] ~= '' then
  local before, stands = standing(key, ARGV[3], ARGV[4])
  from = before + (stands and 1 or 0)
end
return call('ZRANGE', key, int(from), int(from + ARGV[2] - 1), 'WITHSCORES')
