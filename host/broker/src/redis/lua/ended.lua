-- ended: ends that may still be kept, newest first: by time, then by list, then by place in the list. It reads only what it returns.
-- KEYS    1 th:{Q}:
-- ARGV    1 how many   2 the last line of the page before, or empty   3 else the newest time to start at, or empty   4 the oldest
--         time, or empty   5… states
-- RETURNS {a text each: time of the place, list, entry, number in it, time of the end, id; a space between each}
-- needs: base, standing
local limit, wanted = tonumber(ARGV[1]), {}
local last, list, entry, number, _, after = string.match(ARGV[2], '^(%d+) (%S+) (%S+) (%d+) (%d+) (.*)$')
for i = 5, #ARGV do wanted[ARGV[i]] = true end

-- The newest time to read from a list, and whether the last page ended inside that list.
local function begin(name)
  if not last then return ARGV[3] ~= '' and ARGV[3] or nil, false end
  if name < list then return int(last - 1), false end
  return last, name == list
end

local function of_stream(name)
  local key, found, count = K .. 'ended:' .. name, {}, 1
  local oldest = int(math.max(now - string.match(name, '%d+$'), tonumber(ARGV[4]) or 0))
  local from, within = begin(name)
  from = within and entry or from or '+'
  repeat
    local entries = call('XREVRANGE', key, from, oldest, 'COUNT', int(count))
    for _, e in ipairs(entries) do
      local ids = {}
      for id in string.gmatch(e[2][6] or '', '%S+') do ids[#ids + 1] = id end
      local first = #ids
      if within and e[1] == entry then first = math.min(first, number - 1) end
      local ms, at = string.match(e[1], '^%d+'), string.match(e[2][2] or '', '^%d+$') or '0'
      for n = first, math.max(first - limit + 1, 1), -1 do
        found[#found + 1] = { tonumber(ms), table.concat({ ms, name, e[1], int(n), at, ids[n] }, ' ') }
      end
      from = '(' .. e[1]
    end
    local ended = #entries < count
    count = math.min(2 * count, 64)
  until ended or #found >= limit
  return found
end

local function of_set(name)
  local key, found = K .. name, {}
  local from, within = begin(name)
  local upto
  if within then upto = standing(key, last, after)
  elseif from then upto = call('ZCOUNT', key, '-inf', from)
  else upto = call('ZCARD', key) end
  local least = ARGV[4] == '' and 0 or call('ZCOUNT', key, '-inf', '(' .. ARGV[4])
  if upto <= least then return found end
  local pairs = call('ZRANGE', key, int(math.max(upto - limit, least)), int(upto - 1), 'WITHSCORES')
  for i = #pairs - 1, 1, -2 do
    local at = math.min(math.max(tonumber(pairs[i + 1]), 0), 2 ^ 53)
    local ms = int(math.floor(at))
    found[#found + 1] = { at, table.concat({ ms, name, '-', '0', ms, pairs[i] }, ' ') }
  end
  return found
end

local names = {}
for _, group in ipairs(call('HKEYS', K .. 'ended')) do
  if wanted[string.match(group, '^(%a+):%d+$') or ''] then names[#names + 1] = group end
end
for state in pairs(wanted) do names[#names + 1] = state == 'dead' and state or 'kept:' .. state end
table.sort(names)
local lists, heads, told = {}, {}, {}
for i, name in ipairs(names) do
  lists[i] = (name == 'dead' or string.sub(name, 1, 5) == 'kept:') and of_set(name) or of_stream(name)
  heads[i] = 1
end
while #told < limit do
  local newest, best
  for i, found in ipairs(lists) do
    local head = found[heads[i]]
    if head and (not newest or head[1] > newest) then newest, best = head[1], i end
  end
  if not best then break end
  told[#told + 1] = lists[best][heads[best]][2]
  heads[best] = heads[best] + 1
end
return told
