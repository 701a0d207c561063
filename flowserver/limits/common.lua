-- What all scripts share; the arithmetic is that of accounts.py. SMALL_LEASE and PAST_QUOTA are defined in front.
--
-- KEYS: leases, live, marker, then the limits of the call. ARGV: now, ttl, remember, stream, then what the call adds.
--   leases   sorted set: stream -> when its lease expires
--   live     hash: stream -> lease
--   marker   string: the lease of one stream that settled or expired
-- The limits of a lease, and the markers of other streams, are no KEYS: only the lease knows them. They carry the
-- tenant's hash tag like all others, so they are on the same node of a cluster.
--
-- Times are milliseconds. What is over is told by the times that are stored; Redis's own expiry comes later, by SPARE,
-- and only clears up.

local SPARE = 1000
local MOST_EXPIRED = 100 -- leases that one call lets expire, so that none takes long; the next calls do the rest

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local ttl, remember, stream = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local leases, live, marker = KEYS[1], KEYS[2], KEYS[3]
local markers = string.sub(marker, 1, -1 - #stream)

-- Accounts: 'r' bucket of requests, 't' of tokens, 's' slots, 'q' quota.

-- A bucket is stored as what it lacks, in parts of a token; a full one is not stored.
local function open_bucket(kind, key, refill, parts)
  local stored = redis.call('HMGET', key, 'lacks', 'at', 'refill', 'parts')
  local lacks = tonumber(stored[1]) or 0
  if lacks > 0 then
    local old = tonumber(stored[4])
    lacks = math.max(0, lacks - math.max(0, now - stored[2]) * stored[3])
    refill, parts = refill or tonumber(stored[3]), parts or old
    if parts ~= old then lacks = math.ceil(lacks * parts / old) end
  end
  return {kind = kind, key = key, refill = refill, parts = parts, lacks = lacks}
end

-- Only reads: a script's first write is where Redis refuses one for want of memory, so it must be one that takes.
local function open_slots(key, most)
  return {kind = 's', key = key, most = most, taken = redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf')}
end

local function read_quota(key)
  local stored = redis.call('HMGET', key, 'used', 'reserved', 'ends', 'most')
  if not stored[3] or tonumber(stored[3]) <= now then return nil end
  return {
    kind = 'q', key = key, used = tonumber(stored[1]), reserved = tonumber(stored[2]),
    ends = tonumber(stored[3]), most = tonumber(stored[4]),
  }
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

-- The accounts of a call's limits: an argument each, from `first` on, of kind and three numbers.
local function open_limits(first)
  local accounts = {}
  for index = 4, #KEYS do
    local kind, a, b, c = string.match(ARGV[first + index - 4], '(%a) (%d+) (%d+) (%d+)')
    a, b, c = tonumber(a), tonumber(b), tonumber(c)
    local account
    if kind == 's' then account = open_slots(KEYS[index], a)
    elseif kind == 'q' then account = open_quota(KEYS[index], a, b, c)
    else
      account = open_bucket(kind, KEYS[index], b, c)
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
    end
    accounts[#accounts + 1] = account
  end
  return accounts
end

local function keep(key, life)
  if redis.call('PTTL', key) < life + SPARE then redis.call('PEXPIRE', key, life + SPARE) end
end

local function save(account)
  if account.kind == 'q' then
    redis.call('HSET', account.key, 'used', account.used, 'reserved', account.reserved,
      'ends', account.ends, 'most', account.most)
    redis.call('PEXPIRE', account.key, account.ends - now + SPARE)
  elseif account.kind ~= 's' then
    if account.lacks <= 0 then redis.call('DEL', account.key) return end
    redis.call('HSET', account.key, 'lacks', account.lacks, 'at', now,
      'refill', account.refill, 'parts', account.parts)
    redis.call('PEXPIRE', account.key, math.ceil(account.lacks / account.refill) + SPARE)
  end
end

local function room(account)
  if account.kind == 's' then return account.most - account.taken end
  if account.kind == 'q' then return account.most - account.used - account.reserved end
  return account.most - math.ceil(account.lacks / account.parts)
end

local function lease_size(want, left)
  return math.max(0, math.min(want, left, math.max(SMALL_LEASE, math.floor(left / 4))))
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
  redis.call('ZREMRANGEBYSCORE', account.key, '-inf', now)
  redis.call('ZADD', account.key, ends, stream)
  keep(account.key, ends - now)
end

-- Leases: {used, total, ends, held, settled}. `total` is what was ever granted, `used` what of it is charged.

local function charge(lease, accounts, used)
  if used <= lease.used then return end
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
  redis.call('HSET', live, stream, cmsgpack.pack(lease))
  redis.call('ZADD', leases, lease.ends, stream)
  local life = ttl + remember
  for _, item in ipairs(lease.held) do
    if item.ends then life = math.max(life, item.ends - now) end
  end
  keep(live, life)
  keep(leases, life)
end

local function write_marker(id, lease)
  redis.call('SET', markers .. id, cmsgpack.pack(lease), 'PX', math.max(0, lease.ends - now) + SPARE)
end

local function read_marker()
  local stored = redis.call('GET', marker)
  local lease = stored and cmsgpack.unpack(stored)
  if lease and lease.ends > now then return lease end
end

-- A lease is over: give back what is not charged, and remember it.
local function finish(id, lease, accounts)
  local rest = lease.total - lease.used
  for _, account in ipairs(accounts) do
    if account.kind == 's' then redis.call('ZREM', account.key, id)
    elseif account.kind == 'q' then account.reserved = account.reserved - rest
    else account.lacks = math.max(0, account.lacks - rest * account.parts) end
    save(account)
  end
  lease.total = lease.used
  lease.ends = now + remember
  redis.call('HDEL', live, id)
  redis.call('ZREM', leases, id)
  write_marker(id, lease)
end

local function expire(id)
  local stored = redis.call('HGET', live, id)
  if stored then
    local lease = cmsgpack.unpack(stored)
    finish(id, lease, open_held(lease))
  else
    redis.call('ZREM', leases, id)
  end
end

-- The stream's lease, if it is alive. First of all expired ones are ended, its own among them.
local function read_lease()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, MOST_EXPIRED)) do expire(id) end
  local stored = redis.call('HGET', live, stream)
  local lease = stored and cmsgpack.unpack(stored)
  if lease and lease.ends <= now then
    expire(stream)
    return nil
  end
  return lease
end

-- Numbers as one text: the client takes a list apart one by one, by far the larger part of its time.
local function told(numbers)
  for index, number in ipairs(numbers) do numbers[index] = string.format('%.0f', number) end
  return table.concat(numbers, ' ')
end
