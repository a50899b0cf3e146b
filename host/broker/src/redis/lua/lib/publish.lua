-- publish: tells those who wait for one of these ends. A short message brings the whole view; after a long one they read it themselves.
-- needs: base, view_of
-- `is_going`: the task's own keys are kept for less than a minute. So the end is stored under `told:<id>` for a minute, because
-- a message may be lost. `view` is used in place of the stored task, if it is given.
local function publish(ids, state, is_going, view)
  if call('EXISTS', K .. 'awaited') == 0 then return end
  for _, id in ipairs(ids) do
    if call(is_going and 'SISMEMBER' or 'SREM', K .. 'awaited', id) == 1 then
      local text, ended, size = state, view or view_of(id, ''), 0
      for _, value in ipairs(ended[2] or {}) do size = size + #value end
      if ended[1] and (is_going or size < 16384) then text = text .. ' ' .. cjson.encode(ended) end
      if is_going then
        call('SET', K .. 'told:' .. id, text, 'PX', 60000)
        call('SREM', K .. 'awaited', id)
      end
      call('PUBLISH', K .. 'done:' .. id, size < 16384 and text or state)
    end
  end
end
