-- What all scripts share; the arithmetic is that of counters.py. SMALL_LEASE, SMALL_MONEY and PAST_QUOTA are
-- defined in front.
--
-- KEYS: leases, live, marker, then the limits of the call. ARGV: the stream; now (0: by this server's clock), ttl,
-- remember and what the call adds, as one text; the limits, as one text of a kind and three numbers each. Few arguments,
-- as each costs the client, the server and the script.
--   leases   sorted set: stream -> when its lease expires
--   live     hash: stream -> lease, as read_lease and written take it apart and put it together
--   marker   string: the lease of one stream that settled or expired
--   slots    sorted set: stream -> when its lease expires
--   buckets and quotas: string of four doubles, as texts of numbers take Redis a microsecond each
-- The limits of a lease, and the markers of other streams, are no KEYS: only the lease knows them. They carry the
-- tenant's hash tag like all others, so they are on the same node of a cluster.
--
-- Times are milliseconds. What is over is told by the times that are stored; Redis's own expiry comes later, by SPARE,
-- and only clears up.

local SPARE = 1000
local MOST_EXPIRED = '100' -- leases that one call lets expire, so that none takes long; the next calls do the rest

local stream = ARGV[1]
local given = {}
for number in string.gmatch(ARGV[2], '%S+') do given[#given + 1] = tonumber(number) end
local now, ttl, remember = given[1], given[2], given[3]
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local leases, live, marker = KEYS[1], KEYS[2], KEYS[3]
local markers = string.sub(marker, 1, -1 - #stream)
local FOUR = '>dddd'

local function text(number) return string.format('%.0f', number) end

-- Accounts: 'r' bucket of requests, 't' of tokens, 's' slots, 'q' quota of tokens or of nano-dollars, which differ in how
-- `small` a lease may become. In a call the latter is 'm'.

-- A bucket is stored as what it lacks, in parts of a token; a full one is not stored.
local function open_bucket(kind, key, refill, parts)
  local stored = redis.call('GET', key)
  local lacks = 0
  if stored then
    local lacked, at, speed, old = struct.unpack(FOUR, stored)
    lacks = math.max(0, lacked - math.max(0, now - at) * speed)
    refill, parts = refill or speed, parts or old
    if parts ~= old then lacks = math.ceil(lacks * parts / old) end
  end
  return {kind = kind, key = key, refill = refill, parts = parts, lacks = lacks}
end

-- Only reads: a script's first write is where Redis refuses one for want of memory, so it must be one that takes.
local function open_slots(key, most)
  return {kind = 's', key = key, most = most, taken = redis.call('ZCOUNT', key, '(' .. text(now), '+inf')}
end

local function read_quota(key)
  local stored = redis.call('GET', key)
  if not stored then return nil end
  local used, reserved, ends, most = struct.unpack(FOUR, stored)
  if ends <= now then return nil end
  return {kind = 'q', key = key, used = used, reserved = reserved, ends = ends, most = most, stored = true}
end

local function open_quota(key, most, ends_at, lasts)
  local account = read_quota(key)
  if not account then
    local ends = ends_at
    if lasts > 0 then ends = now + lasts elseif ends_at <= now then ends = now + PAST_QUOTA end
    account = {kind = 'q', key = key, used = 0, reserved = 0, ends = ends}
  end
  account.most = most
  return account
end

-- The accounts of a call's limits.
local function open_limits()
  local accounts = {}
  for kind, a, b, c in string.gmatch(ARGV[3], '(%a) (%d+) (%d+) (%d+)') do
    local key = KEYS[4 + #accounts]
    a, b, c = tonumber(a), tonumber(b), tonumber(c)
    local account
    if kind == 's' then account = open_slots(key, a)
    elseif kind == 'q' or kind == 'm' then
      account = open_quota(key, a, b, c)
      account.small = kind == 'm' and SMALL_MONEY or SMALL_LEASE
    else
      account = open_bucket(kind, key, b, c)
      account.most = a
    end
    accounts[#accounts + 1] = account
  end
  return accounts
end

-- The accounts that a lease draws on. A quota's period that ended has none any more.
local function open_held(lease)
  local accounts = {}
  for _, item in ipairs(lease.held) do
    local account
    if item.kind == 't' then
      account = open_bucket('t', item.key)
      account.refill, account.parts = account.refill or item.refill, account.parts or item.parts
    elseif item.kind == 's' then account = {kind = 's', key = item.key}
    else
      account = read_quota(item.key)
      if account and account.ends ~= item.ends then account = nil end
      if account then account.small = item.small end
    end
    accounts[#accounts + 1] = account
  end
  return accounts
end

local function keep(key, life)
  if redis.call('PTTL', key) < life + SPARE then redis.call('PEXPIRE', key, text(life + SPARE)) end
end

local function save(account)
  if account.kind == 'q' then
    -- Never below 0: a key that was lost and created again knows nothing of the leases from before.
    account.used, account.reserved = math.max(0, account.used), math.max(0, account.reserved)
    local packed = struct.pack(FOUR, account.used, account.reserved, account.ends, account.most)
    if account.stored then redis.call('SET', account.key, packed, 'KEEPTTL')
    else redis.call('SET', account.key, packed, 'PX', text(account.ends - now + SPARE)) end
  elseif account.kind ~= 's' then
    if account.lacks <= 0 then redis.call('DEL', account.key) return end
    redis.call('SET', account.key, struct.pack(FOUR, account.lacks, now, account.refill, account.parts),
      'PX', text(math.ceil(account.lacks / account.refill) + SPARE))
  end
end

local function room(account)
  if account.kind == 's' then return account.most - account.taken end
  if account.kind == 'q' then return account.most - account.used - account.reserved end
  return account.most - math.ceil(account.lacks / account.parts)
end

local function lease_size(account, want, left)
  return math.max(0, math.min(want, left, math.max(account.small, math.floor(left / 4))))
end

local function reset(account)
  if account.kind == 's' then return -1 end
  if account.kind == 'q' then return account.ends - now end
  return math.ceil(account.lacks / account.refill)
end

local function take(account, amount)
  if account.kind == 'q' then account.reserved = account.reserved + amount
  elseif account.kind ~= 's' then account.lacks = account.lacks + amount * account.parts end
end

local function take_slot(account, ends)
  redis.call('ZADD', account.key, text(ends), stream)
  keep(account.key, ends - now)
end

-- Leases: {used, total, ends, settled, held}. `total` is what was ever granted, `used` what of it is charged; `held` is
-- the accounts it draws on. Stored flat, without names: half the work.

local function written(lease)
  local flat = {lease.used, lease.total, lease.ends, lease.settled}
  for _, item in ipairs(lease.held) do
    local at = #flat
    flat[at + 1], flat[at + 2], flat[at + 3] = item.kind, item.key, item.ends or item.refill or 0
    flat[at + 4] = item.parts or item.small or 0
  end
  return cmsgpack.pack(flat)
end

local function read(stored)
  local flat = cmsgpack.unpack(stored)
  local lease = {used = flat[1], total = flat[2], ends = flat[3], settled = flat[4], held = {}}
  for at = 5, #flat, 4 do
    local item = {kind = flat[at], key = flat[at + 1]}
    if item.kind == 'q' then item.ends, item.small = flat[at + 2], math.max(SMALL_LEASE, flat[at + 3])
    elseif item.kind == 't' then item.refill, item.parts = flat[at + 2], flat[at + 3] end
    lease.held[#lease.held + 1] = item
  end
  return lease
end

-- Make the total charge `used`. What was charged above it returns to the lease; the lease grows to what is beyond it.
local function charge(lease, accounts, used)
  local amount, over = used - lease.used, math.max(0, used - lease.total)
  for _, account in ipairs(accounts) do
    if account.kind == 'q' then
      account.used = account.used + amount
      account.reserved = account.reserved - (amount - over)
    elseif account.kind == 't' then
      account.lacks = account.lacks + over * account.parts
    end
  end
  lease.used = used
  lease.total = math.max(lease.total, used)
end

-- Live leases are kept for as long as any quota that they hold something of, or it would be held for ever.
local function write_lease(lease)
  redis.call('HSET', live, stream, written(lease))
  redis.call('ZADD', leases, text(lease.ends), stream)
  local life = ttl + remember
  for _, item in ipairs(lease.held) do
    if item.ends then life = math.max(life, item.ends - now) end
  end
  keep(live, life)
  keep(leases, life)
end

local function write_marker(id, lease)
  redis.call('SET', markers .. id, written(lease), 'PX', text(math.max(0, lease.ends - now) + SPARE))
end

local function read_marker()
  local stored = redis.call('GET', marker)
  local lease = stored and read(stored)
  if lease and lease.ends > now then return lease end
end

-- Give back what is not charged.
local function give_back(lease, accounts)
  local rest = lease.total - lease.used
  for _, account in ipairs(accounts) do
    if account.kind == 'q' then account.reserved = account.reserved - rest
    elseif account.kind == 't' then account.lacks = math.max(0, account.lacks - rest * account.parts) end
    save(account)
  end
  lease.total = lease.used
end

-- A lease is over: give back its slot and what is not charged, and remember it.
local function finish(id, lease, accounts)
  for _, account in ipairs(accounts) do
    if account.kind == 's' then redis.call('ZREM', account.key, id) end
  end
  give_back(lease, accounts)
  lease.ends = now + remember
  redis.call('HDEL', live, id)
  redis.call('ZREM', leases, id)
  write_marker(id, lease)
end

local function expire(id)
  local stored = redis.call('HGET', live, id)
  if stored then
    local lease = read(stored)
    finish(id, lease, open_held(lease))
  else
    redis.call('ZREM', leases, id)
  end
end

-- The stream's lease, if it is alive. First of all expired ones are ended, its own among them.
local function read_lease()
  local until_now = text(now)
  if redis.call('ZCOUNT', leases, '-inf', until_now) > 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', until_now, 'LIMIT', '0', MOST_EXPIRED)) do
      expire(id)
    end
  end
  local stored = redis.call('HGET', live, stream)
  local lease = stored and read(stored)
  if lease and lease.ends <= now then
    expire(stream)
    return nil
  end
  return lease
end

-- Numbers as one text: the client takes a list apart one by one, by far the larger part of its time.
local function told(numbers)
  for index, number in ipairs(numbers) do numbers[index] = text(number) end
  return table.concat(numbers, ' ')
end
