-- flow_view: what stands of a flow, for people.
-- KEYS    1 th:{Q}:
-- ARGV    1 id
-- RETURNS {} if it is unknown, else {fields and values of its hash, plan, input, its result or '', names and values of its signals}
-- needs: base
local f = K .. 'flow:' .. ARGV[1]
if not call('HGET', f, 'sha') then return {} end
return { call('HGETALL', f), call('GET', f .. ':plan') or '', call('GET', f .. ':input') or 'null', call('HGET', f .. ':r', ':flow') or '', call('HGETALL', f .. ':s') }
