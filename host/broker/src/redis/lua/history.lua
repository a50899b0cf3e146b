-- history: the counts of some steps of time, by body.
-- KEYS    1 th:{Q}:
-- ARGV    1 seconds of a step   2 the start of the first step, in seconds   3 how many steps
-- RETURNS {the start of a step in seconds, body, counts} each, one after the other
-- needs: base
local told = {}
for n = 0, ARGV[3] - 1 do
  local start = int(ARGV[2] + n * ARGV[1])
  local counts = call('HGETALL', K .. 'past:' .. ARGV[1] .. ':' .. start)
  for i = 1, #counts, 2 do
    told[#told + 1] = start
    told[#told + 1] = counts[i]
    told[#told + 1] = counts[i + 1]
  end
end
return told
