-- resume: the queue is claimed from again.
-- KEYS    1 th:{Q}:
call('HDEL', K .. 'control', 'paused')
wake()
return 1
