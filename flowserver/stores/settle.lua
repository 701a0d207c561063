-- Make the total charge `used`, and give the rest back. Given: used. Returns 1, or 0 if there is nothing to settle.

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
  give_back(lease, accounts) -- its slot came back when it expired
  write_marker(stream, lease)
end
return 1
