-- wake: one idle worker, which waits by BZPOPMIN, looks for tasks.
-- needs: base
local function wake() call('ZADD', K .. 'wake', '0', 'w') end
