-- register: starts a new incarnation, whose id ends in `:<lease ms>`.
-- KEYS    1 th:{Q}:
-- ARGV    1 lease ms   2 incarnation
-- needs: base, lease
local lease = tonumber(ARGV[1])
call('ZADD', K .. 'workers', int(now + lease - grace(lease)), ARGV[2])
return 1
