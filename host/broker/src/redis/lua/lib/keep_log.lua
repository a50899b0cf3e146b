-- keep_log: writes the lines of an attempt into the log of its task. They replace the lines that were written earlier for the same attempt.
-- needs: base
-- The field `live` of the task has the claim of the attempt whose lines came last, and where they begin in the log.
local function keep_log(id, claim, text, goes_on)
  local t, key = T .. id, K .. 'log:' .. id
  local owner, from = string.match(call('HGET', t, 'live') or '', '^(%d+) (%d+)$')
  local log = call('GET', key) or ''
  if owner == claim then log = string.sub(log, 1, tonumber(from)) end
  from = #log
  log = log .. text
  -- The newest 64 KiB, whole lines.
  if #log > 65536 then
    local tail = string.sub(log, -65536)
    local cut = string.find(tail, '\n', 1, true)
    if cut and cut < #tail then tail = string.sub(tail, cut + 1) end
    from, log = math.max(0, from - (#log - #tail)), tail
  end
  -- First, so that the lines are known for those of this attempt if the call breaks off here or later.
  if goes_on then call('HSET', t, 'live', claim .. ' ' .. int(from)) end
  call('SET', key, log)
end
