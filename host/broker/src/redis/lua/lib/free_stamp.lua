-- free_stamp: notes what an incarnation holds.
-- needs: base
-- `hold:<incarnation>` has two fields for each claim. `<stamp>` has the ids of its tasks; the place of a task counts from 0. `<stamp>:open`
-- has a bit for each place that is still held, in words of 32 bits. The stamp is the claim time in µs.

-- The first free stamp from this time on. Two claims have the same time only if the clock was set back.
local function free_stamp(hold, us)
  while call('HEXISTS', hold, int(us)) == 1 do us = us + 1 end
  return int(us)
end

-- Writes a claim whose tasks are all held.
local function put_claim(hold, stamp, ids)
  local n = #ids
  local open = string.rep('\255', 4 * math.floor(n / 32))
  if n % 32 > 0 then open = open .. struct.pack('<i4', bit.lshift(1, n % 32) - 1) end
  call('HSET', hold, stamp, cmsgpack.pack(ids), stamp .. ':open', open)
end
