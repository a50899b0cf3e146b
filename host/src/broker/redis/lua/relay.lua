-- relay: children of tasks of another queue come to be; one that is known, or left a stub, is left out.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of records   2… records, see `admit` in lib.lua
admit(2, tonumber(ARGV[1]), true)
return 1
