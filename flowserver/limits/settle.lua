-- Charge what is left to charge, and give the rest back. Given: used. Returns 1, or 0 when there was nothing to settle.

local lease = read_lease()
local alive = lease
lease = lease or read_marker()
if not lease or lease.settled == 1 then return 0 end
local accounts = open_held(lease)
charge(lease, accounts, given[4])
lease.settled = 1
lease.held = {}
if alive then
  finish(stream, lease, accounts)
else
  for _, account in ipairs(accounts) do save(account) end
  write_marker(stream, lease)
end
return 1
