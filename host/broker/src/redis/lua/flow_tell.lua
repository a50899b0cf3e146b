-- flow_tell: what a task of another queue has told a flow of this one, see lib/tell_flow.lua.
-- KEYS    1 th:{Q}:
-- ARGV    1 flow   2 event   3 the field of its result, or ''   4 the result
-- RETURNS 1
-- needs: tell_flow
note_event(ARGV[1], ARGV[2], ARGV[3] ~= '' and ARGV[3] or nil, ARGV[4])
return 1
