-- expire: an incarnation whose process is proved gone is adopted by the next look: its deadline is past and marked.
-- KEYS    1 th:{Q}:
-- ARGV    1 incarnation
call('ZADD', K .. 'workers', 'XX', '0.5', ARGV[1])
wake()
return 1
