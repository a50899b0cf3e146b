-- kept_until: when a success goes that a sweep removes, and when it ended. Nothing of other tasks, whose keys expire by themselves.
-- needs: base
-- `done` is this field of its hash.
local function kept_until(done)
  local at, gone = string.match(done or '', '^(%d+) %d+ %S* (%d+)$')
  return tonumber(gone), tonumber(at)
end

-- Whether its time is over. Then it counts as absent, although no sweep came to it yet.
local function is_gone(state, done)
  local gone = state and kept_until(done)
  return gone and gone < now or false
end
