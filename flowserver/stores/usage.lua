-- What is taken of limits. Returns, as one text, used, reserved and milliseconds to the reset (-1: none) of each.

read_lease()
local reply = {}
for _, account in ipairs(open_limits()) do
  if account.kind == 'q' then reply[#reply + 1] = account.used
  else reply[#reply + 1] = account.most - room(account) end
  reply[#reply + 1] = account.kind == 'q' and account.reserved or 0
  reply[#reply + 1] = reset(account)
end
return told(reply)
