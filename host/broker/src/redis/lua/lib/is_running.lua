-- is_running: whether a task that an incarnation holds has not ended. `task` and `state` are these two fields of its hash.
-- needs: is_open, place
-- A task that also stands in a waiting place does not run: a call broke off before it had left all of its places.
local function is_running(id, task, state) return is_open(id, task, state) and not place(id, task or '') end
