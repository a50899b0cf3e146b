-- read_task: the fields of a task that a worker gets.
-- needs: base
local FIELDS = { 'task', 'args', 'at', 'tries', 'losses', 'priority', 'timeout', 'max', 'headers', 'ttl', 'options', 'tp', 'bg', 'flow', 'expires', 'state' }
local function read_task(id) return call('HMGET', T .. id, unpack(FIELDS)) end
