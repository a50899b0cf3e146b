-- mark: writes a key, so that the WAIT behind it waits for everything before it, also if the batch itself wrote nothing.
-- KEYS    1 th:{Q}:
-- RETURNS OK
-- needs: nothing
return redis.call('SET', KEYS[1] .. 'mark', 1, 'PX', 60000)
