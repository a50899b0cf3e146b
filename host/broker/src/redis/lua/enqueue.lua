-- enqueue: tasks come to be, or their id or unique key is known.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of records   2… records, see `admit` in lib.lua
--         or  1 `plain`   2… id, task, args each: tasks that start now, with the default priority and no other field
--         or  1 `call`   2 a name of this call   3… either of these: repeated within a minute it does nothing and answers the same
-- RETURNS an error INVALID when a record can't be read, and nothing was written;
--         {} when all were added, else {'' or the id of the task that stands there already…} in the order given
local key, first = nil, 1
if ARGV[1] == 'call' then
  key, first = K .. 'call:' .. (ARGV[2] or ''), 3
  local said = call('GET', key)
  if said then return cjson.decode(said) end
end
local refused = refusal(first) if refused then return refused end -- left out of the script for records of our own, see scripts.rs
local replies
if ARGV[first] == 'plain' then replies = admit_plain(first + 1, (#ARGV - first) / 3) else replies = admit(first + 1, tonumber(ARGV[first])) end
if key then call('SET', key, cjson.encode(replies), 'PX', 60000) end
return replies
