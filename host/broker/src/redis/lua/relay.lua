-- relay: adds children of tasks of another queue. A child that is known, or left a stub, is left out.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of records   2… records, see lib/admit.lua
-- RETURNS an error INVALID if a record can't be read, and nothing was written; else 1
-- needs: refusal, admit
local refused = refusal(1) if refused then return refused end -- another program may have written the outbox
admit(ARGV, 2, tonumber(ARGV[1]), true)
return 1
