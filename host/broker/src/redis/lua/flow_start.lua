-- flow_start: starts a flow. Its first step is taken by whoever comes first.
-- KEYS    1 th:{Q}:
-- ARGV    1 JSON, see lib/put_flow.lua
-- RETURNS 1, or 0 if the id is known
-- needs: put_flow
return put_flow(cjson.decode(ARGV[1])) and 1 or 0
