-- record: adds the counts of a worker to those of the minute, of the ten minutes and of the day.
-- KEYS    1 th:{Q}:
-- ARGV    1 worker   2 the number of this record: a worker counts them up   3 number of steps, then seconds and seconds to keep each
--         then a body and its counts each: `name=n` with spaces between
-- RETURNS 1, or 0 if this record or a later one of the worker is here already
-- needs: base
-- Write the number first: a call that breaks off midway loses counts, and counts nothing twice.
local last = K .. 'recorded:' .. ARGV[1]
if (tonumber(call('GET', last) or nil) or 0) >= tonumber(ARGV[2]) then return 0 end
call('SET', last, ARGV[2], 'EX', '3600')
local seconds, first = math.floor(now / 1000), 4 + 2 * ARGV[3]
for i = 4, first - 1, 2 do
  local key = K .. 'past:' .. ARGV[i] .. ':' .. int(seconds - seconds % ARGV[i])
  for a = first, #ARGV, 2 do
    local names, sums = {}, {}
    for name, n in string.gmatch((call('HGET', key, ARGV[a]) or '') .. ' ' .. ARGV[a + 1], '(%w+)=(%d+)') do
      if not sums[name] then names[#names + 1] = name end
      sums[name] = math.min((sums[name] or 0) + tonumber(n), 2 ^ 53)
    end
    for n, name in ipairs(names) do names[n] = name .. '=' .. int(sums[name]) end
    call('HSET', key, ARGV[a], table.concat(names, ' '))
  end
  -- The most ready tasks of the step.
  local ready = call('ZCARD', K .. 'ready')
  if ready > tonumber(string.match(call('HGET', key, '_queue') or '', '^q=(%d+)$') or 0) then
    call('HSET', key, '_queue', 'q=' .. int(ready))
  end
  call('EXPIRE', key, ARGV[i + 1])
end
return 1
