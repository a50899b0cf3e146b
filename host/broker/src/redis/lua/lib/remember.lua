-- remember: adds an entry to the record of a schedule, and keeps the newest 40. A time has 13 digits until the year 2286.
-- needs: base
-- `what`: b begun, f fired, s skipped, p paused
local function remember(key, record, at, what) call('HSET', key, 'record', ((record or '') .. int(at) .. what .. ' '):sub(-600)) end
