-- enqueue_one: adds one task that starts now, with the default priority and no field but its name and arguments.
-- KEYS    1 th:{Q}:
-- ARGV    1 id   2 task   3 args
-- RETURNS 1 if it was added; 0 if the id stands there, which `enqueue` then looks at
-- needs: base, rank, wake
-- It is a script of its own because Redis builds every function of a script anew at each call: it costs two thirds of `enqueue`.
local id = ARGV[1]
local t = T .. id
if call('EXISTS', t) == 1 then return 0 end
local seq = call('HINCRBY', K .. 'control', 'seq', '1')
call('ZADD', K .. 'ready', rank(5, seq), id)
call('HSET', t, 'at', int(now), 'seq', int(seq), 'task', ARGV[2], 'args', ARGV[3])
wake()
return 1
