-- flow_ask: tells a flow something that a person or a program wants of it.
-- KEYS    1 th:{Q}:
-- ARGV    1 id   2 event, signal, pause or resume   3 the event, or the name of the signal   4 its value
-- RETURNS {word}: 'unknown', 'done', 'already', 'ended'; and the state of the flow
-- needs: base, tell_flow, wake
local id, verb = ARGV[1], ARGV[2]
local f = K .. 'flow:' .. id
local h = call('HMGET', f, 'st', 'end', 'paused', 'sha')
if not h[4] then return { 'unknown', '' } end
local is_retry = verb == 'event' and string.sub(ARGV[3], 1, 7) == '! retry'
if h[2] and not is_retry then return { 'ended', h[1] or '' } end
if verb == 'event' then
  -- What is asked of a paused flow lets it go on.
  call('HDEL', f, 'paused')
  note_event(id, ARGV[3])
elseif verb == 'signal' then
  -- The signal comes last: a repeated call finds it only if the step that it wants was noted.
  if not h[3] then
    call('ZADD', K .. 'flows', '0', id)
    wake()
  end
  if call('HSETNX', f .. ':s', ARGV[3], ARGV[4]) == 0 then return { 'already', h[1] or '' } end
elseif verb == 'pause' then
  if h[3] then return { 'already', h[1] or '' } end
  call('HSET', f, 'paused', int(now))
  call('ZREM', K .. 'flows', id)
else
  if not h[3] then return { 'already', h[1] or '' } end
  call('ZADD', K .. 'flows', '0', id)
  call('HDEL', f, 'paused')
  wake()
end
return { 'done', h[1] or '' }
