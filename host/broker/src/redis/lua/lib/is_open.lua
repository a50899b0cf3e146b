-- is_open: whether an id names a task that has not ended. `task` and `state` are these two fields of its hash.
-- needs: base
-- A hash without a name counts too: another program wrote it. It is claimed like any task and then ends as unreadable.
local function is_open(id, task, state) return not state and (task or call('EXISTS', T .. id) == 1) end
