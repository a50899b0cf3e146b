-- register: a new incarnation, whose id ends in `:<lease ms>`.
-- KEYS    1 th:{Q}:
-- ARGV    1 lease ms   2 incarnation
call('ZADD', K .. 'workers', int(now + ARGV[1]), ARGV[2])
return 1
