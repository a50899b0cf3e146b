-- member: the id in a member of a held set, `<id>@<claim time µs>`.
-- needs: nothing
local function id_of(member) return string.sub(member, 1, string.find(member, '@', 1, true) - 1) end

-- The same for a member that another program may have written.
local function id_in(member) return string.match(member, '^(.*)@%d*$') or member end
