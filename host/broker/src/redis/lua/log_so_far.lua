-- log_so_far: shows the log of an attempt that runs.
-- KEYS    1 th:{Q}:
-- ARGV    1 incarnation   2 id   3 claim   4 place   5 the lines of the attempt
-- RETURNS 1, or 0 if the incarnation does not hold the attempt any more
-- needs: base, places, keep_log
local words = words_of(call('HGET', K .. 'hold:' .. ARGV[1], ARGV[3] .. ':open') or '')
if not is_held_at(words, tonumber(ARGV[4])) then return 0 end
local t = T .. ARGV[2]
local f = call('HMGET', t, 'task', 'state')
if not f[1] or f[2] then return 0 end
-- The end of this task is no plain one from now on: it looks after the log too.
call('SADD', K .. 'special', ARGV[2])
keep_log(ARGV[2], ARGV[3], ARGV[5], true)
return 1
