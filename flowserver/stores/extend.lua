-- Charge what is used, move the lease on, and take more. Given: used, want. Returns the tokens granted; -1: not known.

local lease = read_lease()
if not lease then
  lease = read_marker() -- an expired one is taken up again
  if not lease then return -1 end
  if lease.settled == 1 then return 0 end
  redis.call('DEL', marker)
end
local used, want = given[4], math.max(0, given[5])
local accounts = open_held(lease)
if used > lease.used then charge(lease, accounts, used) end

local granted = want
for _, account in ipairs(accounts) do
  if account.kind == 'q' then granted = math.min(granted, lease_size(account, want, room(account))) end
end
lease.total = lease.total + granted
lease.ends = now + ttl
for _, account in ipairs(accounts) do
  take(account, granted)
  save(account)
  if account.kind == 's' then take_slot(account, lease.ends) end
end
write_lease(lease)
return granted
