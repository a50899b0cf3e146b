-- release: frees the unique key of a task, if the task still holds it.
-- needs: base
local function release(id, unique)
  if unique and call('GET', K .. 'unique:' .. unique) == id then call('DEL', K .. 'unique:' .. unique) end
end
