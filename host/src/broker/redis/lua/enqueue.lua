-- enqueue: tasks come to be, or their id or unique key is known.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of records   2… records, see `admit` in lib.lua
-- RETURNS {} when all were added, else {'' or the id of the task that stands there already…} in the order given
local replies = admit(2, tonumber(ARGV[1]))
return replies
