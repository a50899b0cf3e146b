-- extend: the heartbeat. It extends a lease, and adopts expired incarnations.
-- KEYS    1 th:{Q}:
-- ARGV    1 lease ms   2 incarnation
-- RETURNS {0} if the lease is lost, else {1, how many tasks it holds, ids asked to be cancelled, entries in the outbox,
--         adopted as in claim, whether a flow is due}
-- needs: base, lease, adopt, claims_of
local me = ARGV[2]
if not prolong(me, tonumber(ARGV[1])) then return { 0 } end
local adopted = adopt(me)
return {
  1, #held_by(me), call('SRANDMEMBER', K .. 'cancelled', 1000), call('XLEN', K .. 'out') + call('XLEN', K .. 'far'), adopted,
  call('ZCOUNT', K .. 'flows', '-inf', int(now)),
}
