-- rank: the score of a task in `ready`: by priority, then by sequence number.
-- needs: base
local function rank(priority, seq) return int((9 - (tonumber(priority) or 5)) * 1e14 + seq) end
