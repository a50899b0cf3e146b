-- kv: small values of one plugin. Reads are plain HGET and ZRANGEBYLEX.
-- KEYS    1 th:{kv:PLUGIN}:
-- ARGV    1 set | remove | increment   2 key   3 value, or what to add
-- RETURNS whether it was set or was there, or the sum, 'invalid' if there is none
local values, keys = KEYS[1] .. 'values', KEYS[1] .. 'keys'
if ARGV[1] == 'set' then
  redis.call('ZADD', keys, 0, ARGV[2])
  redis.call('HSET', values, ARGV[2], ARGV[3])
  return 1
end
if ARGV[1] == 'remove' then
  local was = redis.call('HDEL', values, ARGV[2])
  redis.call('ZREM', keys, ARGV[2])
  return was
end
local sum = redis.pcall('HINCRBY', values, ARGV[2], ARGV[3])
-- Not a number, or beyond 64 bits: said as such, not as a fault of the server.
if type(sum) == 'table' then return 'invalid' end
redis.call('ZADD', keys, 0, ARGV[2])
return redis.call('HGET', values, ARGV[2])
