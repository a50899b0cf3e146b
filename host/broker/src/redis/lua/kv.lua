-- kv: changes one small value of a plugin. Reads are plain HGET and ZRANGEBYLEX.
-- KEYS    1 th:{kv:PLUGIN}:
-- ARGV    1 set | remove | increment   2 key   3 value, or what to add   4 most bytes   5 most keys
-- RETURNS set: 1; remove: whether it was there; increment: the sum, or 'invalid'; if it does not fit: {whether too many keys, bytes}
-- needs: nothing
local values, keys, size = KEYS[1] .. 'values', KEYS[1] .. 'keys', KEYS[1] .. 'size'
local had = redis.call('HEXISTS', values, ARGV[2]) == 1
local old = redis.call('HSTRLEN', values, ARGV[2])
local function note(change) redis.call('INCRBY', size, string.format('%.0f', change)) end
if ARGV[1] == 'remove' then
  if not had then return 0 end
  note(-#ARGV[2] - old)
  redis.call('ZREM', keys, ARGV[2])
  redis.call('HDEL', values, ARGV[2])
  return 1
end
-- An increment is counted with 20 digits, the longest number, so that it need not be undone.
local new = ARGV[1] == 'set' and #ARGV[3] or math.max(old, 20)
local grows = new - old + (had and 0 or #ARGV[2])
local bytes = (tonumber(redis.call('GET', size) or '0') or 0) + grows
local count = redis.call('HLEN', values) + (had and 0 or 1)
local too_many = not had and count > tonumber(ARGV[5])
if too_many or (grows > 0 and bytes > tonumber(ARGV[4])) then
  return {too_many and 1 or 0, string.format('%.0f', bytes)}
end
if ARGV[1] == 'set' then
  redis.call('ZADD', keys, 0, ARGV[2])
  redis.call('HSET', values, ARGV[2], ARGV[3])
  note(grows)
  return 1
end
local sum = redis.pcall('HINCRBY', values, ARGV[2], ARGV[3])
-- The value is no number, or the sum needs more than 64 bits. This is no fault of the server.
if type(sum) == 'table' then return 'invalid' end
redis.call('ZADD', keys, 0, ARGV[2])
note(redis.call('HSTRLEN', values, ARGV[2]) - old + (had and 0 or #ARGV[2]))
return redis.call('HGET', values, ARGV[2])
