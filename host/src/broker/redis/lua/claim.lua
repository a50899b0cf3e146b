-- claim: lease ready tasks, and parked ones that this worker can start, to one incarnation; promote, adopt, expire on the way.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 limit   3 lease ms   4 incarnation   5… names this worker can start
-- RETURNS {0} when the lease is lost, else
--         {1, claim µs, paused, more, ms until the next due time or -1, parked names, {member, fields}… adopted, {id, fields}… best first}
local ttl, limit, me = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
if not prolong(me, tonumber(ARGV[3])) then return { 0 } end
local adopted = adopt(me)
local more = expire(ttl) == 200
more = promote() == 500 or more
local paused = redis.call('HGET', K .. 'control', 'paused') and 1 or 0
local stamp = int(now_us)

-- Parked tasks whose names we may start are sources beside `ready`.
local names, sources = redis.call('SRANDMEMBER', K .. 'parked', 1000), {}
if #names > 0 and paused == 0 then
  local startable = {}
  for i = 5, #ARGV do startable[ARGV[i]] = true end
  for _, name in ipairs(names) do
    if startable[name] then sources[#sources + 1] = name end
  end
end

-- The first `want` of all sources, best first, as {id, score, name or nil}.
local function candidates(want)
  local list = {}
  if #sources == 0 then
    for i, id in ipairs(redis.call('ZRANGE', K .. 'ready', 0, want - 1)) do list[i] = { id } end
    return list
  end
  local ready = redis.call('ZRANGE', K .. 'ready', 0, want - 1, 'WITHSCORES')
  for i = 1, #ready, 2 do list[#list + 1] = { ready[i], tonumber(ready[i + 1]) } end
  for _, name in ipairs(sources) do
    local parked = redis.call('ZRANGE', K .. 'parked:' .. name, 0, want - 1, 'WITHSCORES')
    for i = 1, #parked, 2 do list[#list + 1] = { parked[i], tonumber(parked[i + 1]), name } end
  end
  table.sort(list, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  for i = #list, want + 1, -1 do list[i] = nil end
  return list
end

local tasks, bytes, full = {}, 0, false
while paused == 0 and #tasks < limit and not full do
  local list = candidates(math.min(limit - #tasks, 1000))
  if #list == 0 then break end
  local held, late, ready, parked = {}, {}, 0, {}
  for _, candidate in ipairs(list) do
    local id, name = candidate[1], candidate[3]
    local f = read(id)
    if f[1] and not f[11] then
      if f[10] and not f[4] and tonumber(f[10]) <= now then
        late[#late + 1] = id
      else
        if #tasks > 0 and bytes + #f[2] > 4194304 then
          full = true
          break
        end
        bytes = bytes + #f[2]
        tasks[#tasks + 1] = { id, f }
        held[#held + 1] = id .. '@' .. stamp
      end
    end
    if name then parked[#parked + 1] = candidate else ready = ready + 1 end
  end
  slices(held, function(...) redis.call('SADD', K .. 'held:' .. me, ...) end)
  for _, id in ipairs(late) do end_waiting(id, 'cancelled', ttl, 'expired', 'not started by the time it expires') end
  -- What came from `ready` is its head, whatever was merged in between.
  if ready > 0 then redis.call('ZREMRANGEBYRANK', K .. 'ready', 0, ready - 1) end
  for _, candidate in ipairs(parked) do leave_place('parked', K .. 'parked:' .. candidate[3], candidate[1], candidate[3]) end
end

if paused == 0 then
  more = more or redis.call('EXISTS', K .. 'ready') == 1
  for _, name in ipairs(sources) do more = more or redis.call('EXISTS', K .. 'parked:' .. name) == 1 end
  if more then wake() end
end
if #sources > 0 then names = redis.call('SRANDMEMBER', K .. 'parked', 1000) end

local due = tonumber(redis.call('ZRANGE', K .. 'scheduled', 0, 0, 'WITHSCORES')[2])
local workers = redis.call('ZRANGE', K .. 'workers', 0, 1, 'WITHSCORES')
local deadline = tonumber(workers[2])
if workers[1] == me then deadline = tonumber(workers[4]) end
if deadline and (not due or deadline < due) then due = deadline end
return { 1, stamp, paused, more and 1 or 0, due and math.max(0, math.ceil(due - now)) or -1, names, adopted, tasks }
