-- refusal: checks the records of other programs before anything is written. Returns an error that names the record, or nothing.
-- needs: base
-- `first` is the place in ARGV of `plain`, or of the number of records.
local RULES = {
  id = { '1 to 128 of A-Z a-z 0-9 . _ : / + = -', '^[%w._:/+=%-]+$', 128 },
  task = { 'a letter, then at most 127 of A-Z a-z 0-9 _ . : / -', '^%a[%w_.:/%-]*$', 128 },
  args = { 'a JSON array', '^%[.*%]$', math.huge },
  headers = { 'a JSON array of pairs', '^%[.*%]$', math.huge },
  priority = { '0 to 9', '^%d$', 1 },
  start = { 'empty, +MILLISECONDS or @MILLISECONDS', '^[+@]%d+$', 16 },
  ['unique time'] = { 'a number of milliseconds, at least 1, where there is a unique key', '^[1-9]%d*$', 15 },
  count = { 'the number of pairs that follow', '^%d%d?$', 2 },
  timeout = { 'a number of milliseconds', '^%d+$', 15 },
  max = { 'a number, at least 1', '^[1-9]%d*$', 9 },
  ttl = { 'a number of milliseconds', '^%d+$', 15 },
  expires = { 'a time in milliseconds', '^%d+$', 15 },
  awaited = { '1', '^1$', 1 },
  options = { 'a JSON object', '^{.*}$', math.huge },
  tp = { 'a W3C traceparent', '^%x%x%-' .. string.rep('%x', 32) .. '%-' .. string.rep('%x', 16) .. '%-%x%x$', 55 },
  bg = { 'a W3C baggage', '^[\32-\126]+$', 8192 },
  flow = { 'the queue, id, node and epoch of a flow', '^%w[%w_.%-]* [%w._:/+=%-]+ %a[%w_.%-]* %d+$', 400 },
}
local FIELD = {
  task = true, args = true, headers = true, timeout = true, max = true, ttl = true, expires = true, awaited = true, options = true,
  tp = true, bg = true, flow = true,
}
local function refusal(first)
  local function no(why) return redis.error_reply('INVALID ' .. why .. '; nothing was enqueued, see docs/protocol.md') end
  local function broken(n, what, value)
    local rule = RULES[what]
    if value and #value <= rule[3] and string.find(value, rule[2]) then return nil end
    return no('record ' .. n .. ': `' .. what .. '` is ' .. rule[1])
  end
  local queue = string.match(K, '{(%w[%w_.%-]*)}:$')
  if not queue or #queue > 64 then return no('the key is PREFIX:{QUEUE}: with the name of a queue') end
  if ARGV[first] == 'plain' or ARGV[first] == 'sorted' then
    if (#ARGV - first) % 3 ~= 0 then return no('a plain task is three arguments: id, task, args') end
    for i = first + 1, #ARGV, 3 do
      local n = (i - first + 2) / 3
      local bad = broken(n, 'id', ARGV[i]) or broken(n, 'task', ARGV[i + 1]) or broken(n, 'args', ARGV[i + 2])
      if bad then return bad end
    end
    return nil
  end
  if not string.find(ARGV[first] or '', '^%d+$') then return no('the first argument is `plain`, `sorted` or the number of records') end
  local i = first + 1
  for n = 1, tonumber(ARGV[first]) do
    local bad = broken(n, 'id', ARGV[i]) or broken(n, 'priority', ARGV[i + 1])
      or (ARGV[i + 2] ~= '' and broken(n, 'start', ARGV[i + 2]))
      or (ARGV[i + 3] ~= '' and broken(n, 'unique time', ARGV[i + 4])) or broken(n, 'count', ARGV[i + 5])
    if bad then return bad end
    local last, seen = i + 4 + 2 * ARGV[i + 5], {}
    for f = i + 6, last, 2 do
      local field = ARGV[f]
      if not FIELD[field] or seen[field] then return no('record ' .. n .. ': an unknown field, or one given twice') end
      seen[field] = true
      bad = broken(n, field, ARGV[f + 1])
      if bad then return bad end
    end
    if not seen.task or not seen.args then return no('record ' .. n .. ': `task` and `args` are required') end
    i = last + 2
  end
  if i ~= #ARGV + 1 then return no('there are more arguments than the number of records says') end
end
