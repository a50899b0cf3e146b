-- expire: marks an incarnation as expired now, because its process is gone. The next claim or heartbeat adopts it.
-- KEYS    1 th:{Q}:
-- ARGV    1 incarnation
-- needs: base, wake
call('ZADD', K .. 'workers', 'XX', '0.5', ARGV[1])
wake()
return 1
