-- cancel: see lib/cancel_task.lua
-- KEYS    1 th:{Q}:
-- ARGV    1 JSON: id; queue; channel, the control channel; ttl, the result_ttl in ms
-- RETURNS 'unknown', 'cancelled', 'asked', or 'ended' and the state
-- needs: cancel_task
local asked = cjson.decode(ARGV[1])
return cancel_task(asked.id, asked.queue, asked.channel, asked.ttl)
