-- Check all limits and, if all pass, take from all.
-- Given: need, want. Returns, as one text, admitted, granted, the number of the limit that refused, milliseconds to wait
-- (-1: not known), then what remains of each limit and milliseconds to its reset (-1: none).

local lease = read_lease()
local need, want = math.max(1, given[4]), given[5]
local accounts = open_limits()

local function answer(admitted, granted, refused_by, wait)
  local reply = {admitted, granted, refused_by, wait}
  for _, account in ipairs(accounts) do
    reply[#reply + 1] = math.max(0, room(account))
    reply[#reply + 1] = reset(account)
  end
  return told(reply)
end

local function wait_for(account, amount)
  if account.kind == 's' then return -1 end
  if account.kind == 'q' then return account.used + amount > account.most and account.ends - now or -1 end
  if amount > account.most then return -1 end
  return math.ceil((account.lacks + (amount - account.most) * account.parts) / account.refill)
end

local granted = math.max(need, want)
if lease then return answer(1, math.min(lease.total - lease.used, granted), 0, -1) end

for index, account in ipairs(accounts) do
  local left = room(account)
  local tokens = account.kind == 't' or account.kind == 'q'
  local cost = tokens and need or 1
  if left < cost then return answer(0, 0, index, wait_for(account, cost)) end
  if tokens then
    granted = math.min(granted, math.max(need, account.kind == 'q' and lease_size(account, granted, left) or left))
  end
end

lease = {used = 0, total = granted, ends = now + ttl, settled = 0, held = {}}
for _, account in ipairs(accounts) do
  take(account, account.kind == 'r' and 1 or granted)
  save(account)
  if account.kind == 's' then
    take_slot(account, lease.ends)
    account.taken = account.taken + 1
  end
  if account.kind ~= 'r' then
    lease.held[#lease.held + 1] = account
  end
end
redis.call('DEL', marker)
write_lease(lease)
return answer(1, granted, 0, -1)
