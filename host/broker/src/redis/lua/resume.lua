-- resume: tasks of the queue are claimed again.
-- KEYS    1 th:{Q}:
-- needs: base, wake
call('HDEL', K .. 'control', 'paused')
wake()
return 1
