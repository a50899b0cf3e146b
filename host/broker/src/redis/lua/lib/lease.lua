-- lease: extends the lease of an incarnation.
-- needs: base
-- The last sixth of a lease. The deadline is this much before the end of the lease. The first who finds it passed grants the rest.
local function grace(lease) return math.ceil(lease / 6) end

-- Whether the incarnation is registered and was not adopted since. If so, its lease is extended.
local function prolong(me, lease)
  if call('ZADD', K .. 'workers', 'XX', 'CH', int(now + lease - grace(lease)), me) == 1 then return true end
  -- It is unknown, or its deadline was already this one.
  return call('ZSCORE', K .. 'workers', me) and true
end
