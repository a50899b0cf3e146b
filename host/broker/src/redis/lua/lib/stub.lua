-- stub: makes a child or firing known for ten minutes after its end, if it is no longer kept.
-- needs: base
-- The broker itself starts children and firings, and may try to start one twice. A known id is not started again.
local STUB_MS = 600000
local function leave_stub(id) call('SET', K .. 'stub:' .. id, '1', 'PX', STUB_MS) end
