-- enqueue: adds tasks whose id and unique key are free.
-- KEYS    1 th:{Q}:
-- ARGV    1 number of records   2… records, see lib/admit.lua
--         or  1 `plain`   2… id, task, args each: tasks that start now, with the default priority and no other field
--         or  1 `sorted`   2… the same; each id is greater than the one before, byte by byte
--         or  1 `call`   2 a name of this call   3… any of these: repeated within a minute it does nothing and answers the same
-- RETURNS an error INVALID if a record can't be read, and nothing was written;
--         {} if all were added, else for each record '' or the id that holds its place
-- needs: base, refusal, admit, admit_plain
local key, first = nil, 1
if ARGV[1] == 'call' then
  key, first = K .. 'call:' .. (ARGV[2] or ''), 3
  local said = call('GET', key)
  if said then return cjson.decode(said) end
end
local refused = refusal(first) if refused then return refused end -- not for our own records, see scripts.rs
local replies
local is_sorted = ARGV[first] == 'sorted'
if is_sorted or ARGV[first] == 'plain' then replies = admit_plain(first + 1, (#ARGV - first) / 3, is_sorted) else replies = admit(ARGV, first + 1, tonumber(ARGV[first])) end
if key then call('SET', key, cjson.encode(replies), 'PX', 60000) end
return replies
