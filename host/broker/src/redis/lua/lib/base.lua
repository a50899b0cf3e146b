-- base: what every verb uses. KEYS[1] is the prefix of the queue, `th:{Q}:`; every key is built from it.
-- needs: nothing
-- No script rolls back. So a verb checks first, then writes the new place of a task, and leaves the old place last. After an error
-- midway a task is in two places, never in none, and the call may be repeated.
local K, call = KEYS[1], redis.call
local T = K .. 't:'
local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

-- Lua would write numbers of 15 digits and more as 1e+15. `%d` is five times as fast as `%.0f`, but needs a C long of 64 bits.
local format, whole = string.format, string.format('%d', 2 ^ 52) == '4503599627370496' and '%d' or '%.0f'
local function int(n) return format(whole, n) end
