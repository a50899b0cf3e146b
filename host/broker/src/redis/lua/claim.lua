-- claim: leases ready tasks, and parked ones that this worker can start. On the way it promotes, adopts and expires.
-- KEYS    1 th:{Q}:
-- ARGV    1 result_ttl ms   2 limit   3 lease ms   4 incarnation   5… names this worker can start
-- RETURNS {0} if the lease is lost, else
--         {1, claim µs, since when it is paused or 0, more, ms until the next due time or -1, parked names, {id, stamp, place, fields}… adopted,
--          how many tasks, 'id task at length …' of them best first, their arguments as one text,
--          {place among those from 1, {tries, losses, options as `OPTIONS` of values.rs}…}, ids that are held now and can't be read,
--          whether a flow is due}
--         The places of the claim are those of its tasks, then those of the ids that can't be read.
-- needs: base, lease, free_stamp, adopt, promote, expire_waiting, wake, is_open, place, end_waiting
local ttl, limit, me = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
if not prolong(me, tonumber(ARGV[3])) then return { 0 } end

-- The next due time, and the next deadline of another incarnation.
local function look()
  local due = call('ZRANGE', K .. 'scheduled', '0', '0', 'WITHSCORES')[2]
  local workers = call('ZRANGE', K .. 'workers', '0', '1', 'WITHSCORES')
  return due and tonumber(due), tonumber(workers[workers[1] == me and 4 or 2] or nil)
end
local due, deadline = look()
local is_due, is_late = due and due <= now, deadline and deadline <= now
local adopted = is_late and adopt(me) or {}
local more = is_due and promote() == 500
-- One lookup shows whether any task is parked or can expire, or a flow waits for its next step.
local names, sources = {}, {}
local flows = nil
if call('EXISTS', K .. 'expires', K .. 'parked', K .. 'flows') > 0 then
  flows = tonumber(call('ZRANGE', K .. 'flows', '0', '0', 'WITHSCORES')[2] or nil)
  more = expire_waiting(ttl) == 200 or more
  names = call('SRANDMEMBER', K .. 'parked', '1000')
end
if is_due or is_late then due, deadline = look() end
-- The time of the pause. Another program may have written something else there.
local paused = call('HGET', K .. 'control', 'paused')
if paused then paused = math.min(math.max(tonumber(paused) or 1, 1), 2 ^ 53) end
local hold, stamp = K .. 'hold:' .. me, nil

-- Names of parked tasks that this worker can start: each is a source beside `ready`.
if #names > 0 and not paused then
  local startable = {}
  for i = 5, #ARGV do startable[ARGV[i]] = true end
  for _, name in ipairs(names) do
    if startable[name] then sources[#sources + 1] = name end
  end
end

-- The best `want` ids of all sources, best first; and for each place, the name under which that task is parked.
local function candidates(want)
  if #sources == 0 then return call('ZRANGE', K .. 'ready', '0', int(want - 1)), {} end
  local list = {}
  local ready = call('ZRANGE', K .. 'ready', '0', int(want - 1), 'WITHSCORES')
  for i = 1, #ready, 2 do list[#list + 1] = { ready[i], tonumber(ready[i + 1]) } end
  for _, name in ipairs(sources) do
    local parked = call('ZRANGE', K .. 'parked:' .. name, '0', int(want - 1), 'WITHSCORES')
    for i = 1, #parked, 2 do list[#list + 1] = { parked[i], tonumber(parked[i + 1]), name } end
  end
  table.sort(list, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  local ids, from = {}, {}
  for i = 1, math.min(want, #list) do ids[i], from[i] = list[i][1], list[i][3] end
  return ids, from
end

-- Turning a number into text costs some 1,700 instructions, and arguments have few different lengths.
local lengths = {}
local heads, texts, extras, mine, odd, seen = {}, {}, {}, {}, {}, #sources > 0 and {} or nil
local taken, bytes, is_full = 0, 0, paused ~= nil and paused ~= false
while taken < limit and not is_full do
  local want = math.min(limit - taken, 1000)
  local ids, from = candidates(want)
  if #ids == 0 then break end
  local before, late, ready, parked = taken + #odd, {}, 0, {}
  for i = 1, #ids do
    local id = ids[i]
    -- `extra` says that the hash has any of the rare fields.
    local f, extra = call('HMGET', T .. id, 'task', 'args', 'at', 'state', 'extra'), nil
    if f[5] == 't' then
      local trace = call('HMGET', T .. id, 'tp', 'bg')
      extra = { false, false, false, false, false, false, false, false, trace[1], trace[2], false, false }
    elseif f[5] then
      extra = call('HMGET', T .. id, 'tries', 'losses', 'priority', 'timeout', 'max', 'headers', 'ttl', 'options', 'tp', 'bg', 'flow', 'expires')
    end
    local is_again = seen and seen[id]
    if seen then seen[id] = true end
    if is_again then
      -- A call broke off before the task had left one of these two places.
    elseif f[1] and f[2] and not f[4] then
      if extra and extra[12] and not extra[1] and (tonumber(extra[12]) or math.huge) <= now then
        late[#late + 1] = id
      else
        local args = f[2]
        if taken > 0 and bytes + #args > 4194304 then
          is_full = true
          break
        end
        bytes = bytes + #args
        local n, length = 4 * taken, lengths[#args]
        if not length then
          length = int(#args)
          lengths[#args] = length
        end
        heads[n + 1], heads[n + 2], heads[n + 3], heads[n + 4] = id, f[1], f[3] or '0', length
        taken = taken + 1
        texts[taken] = args
        mine[taken] = id
        if extra then
          extras[#extras + 1] = taken
          extras[#extras + 1] = extra
        end
      end
    elseif is_open(id, f[1], f[4]) then
      odd[#odd + 1] = id
    end
    if from[i] then parked[#parked + 1] = i else ready = ready + 1 end
  end
  if taken + #odd > before then
    stamp = stamp or free_stamp(hold, now_us)
    local held = mine
    if #odd > 0 then
      held = {}
      for i = 1, taken do held[i] = mine[i] end
      for i = 1, #odd do held[taken + i] = odd[i] end
    end
    put_claim(hold, stamp, held)
  end
  for _, id in ipairs(late) do end_waiting(id, 'cancelled', ttl, 'expired', 'not started by the time it expires') end
  -- The tasks from `ready` are its first ones, also when parked ones were merged between them.
  if ready > 0 then call('ZREMRANGEBYRANK', K .. 'ready', '0', int(ready - 1)) end
  for _, i in ipairs(parked) do leave_place('parked', K .. 'parked:' .. from[i], ids[i], from[i]) end
  if #ids < want then break end
end

if not paused then
  more = more or call('EXISTS', K .. 'ready') == 1
  for _, name in ipairs(sources) do more = more or call('EXISTS', K .. 'parked:' .. name) == 1 end
  if more then wake() end
end
if #sources > 0 then names = call('SRANDMEMBER', K .. 'parked', '1000') end
if deadline and (not due or deadline < due) then due = deadline end
if flows and (not due or flows < due) then due = flows end
-- Two texts instead of four values a task: the worker reads them faster. It costs the server some 1,000 instructions a task.
return {
  1, stamp or '0', paused and int(paused) or '0', more and 1 or 0, due and math.max(0, math.ceil(due - now)) or -1, names, adopted,
  taken, table.concat(heads, ' '), table.concat(texts), extras, odd, flows and flows <= now and 1 or 0,
}
