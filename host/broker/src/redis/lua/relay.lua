-- relay: children of tasks of another queue come to be; one that is known, or left a stub, is left out.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of records   2… records, see `admit` in lib.lua
-- RETURNS an error INVALID when a record can't be read, and nothing was written; else 1
local refused = refusal(1) if refused then return refused end -- others may have written what is relayed
admit(2, tonumber(ARGV[1]), true)
return 1
