-- Charge what is left to charge, and give the rest back. ARGV: used. Returns 1, or 0 when there was nothing to settle.

local lease = read_lease()
local alive = lease
lease = lease or read_marker()
if not lease or lease.settled then return 0 end
local accounts = open_held(lease)
charge(lease, accounts, tonumber(ARGV[5]))
lease.settled = 1
lease.held = {}
if alive then
  finish(stream, lease, accounts)
else
  for _, account in ipairs(accounts) do save(account) end
  write_marker(stream, lease)
end
return 1
