-- mark: write something, so that the WAIT behind it waits for all that stands before it, also when the batch itself wrote nothing.
-- KEYS    1 th:{Q}:
-- RETURNS OK
return redis.call('SET', KEYS[1] .. 'mark', 1, 'PX', 60000)
