-- enqueue: tasks come to be, or their id or unique key is known.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of records   2… records, see `admit` in lib.lua
--         or  1 `plain`   2… id, task, args each: tasks that start now, with the default priority and no other field
-- RETURNS an error INVALID when a record can't be read, and nothing was written;
--         {} when all were added, else {'' or the id of the task that stands there already…} in the order given
local refused = refusal(1) if refused then return refused end -- left out of the script for records of our own, see scripts.rs
if ARGV[1] == 'plain' then return admit_plain(2, (#ARGV - 1) / 3) end
local replies = admit(2, tonumber(ARGV[1]))
return replies
