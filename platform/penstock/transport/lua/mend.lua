-- Repair keys whose type or content somebody has broken, and set aside what cannot be repaired.
--
-- KEYS  keys to look at
-- ARGV  1 what precedes the name of a key that is set aside   2 how long those are kept, seconds
--       then per key: its type, and what stands in it ("" where that is of no concern)
--
-- In one step, so that a key that another has just repaired is not set aside. Returns { key, what was done, ... }.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local FAR_S, DAY_S = 1e12, 86400

local function finite(text)
  local number = tonumber(text)
  return number and number == number and math.abs(number) < math.huge and number
end

local function strike(key, good)
  local struck, all = 0, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if not good(all[i + 1], all[i]) then
      redis.call('HDEL', key, all[i])
      struck = struck + 1
    end
  end
  return struck
end

local mend = {}

function mend.counter(key)
  local text = redis.call('GET', key)
  return not (string.match(text, '^%d+$') and #text <= 16 and tonumber(text) < 9e15) and redis.call('DEL', key) or 0
end

function mend.caps(key)
  return strike(key, function(text) return string.match(text, '^%d+$') and #text < 16 and tonumber(text) >= 1 end)
end

function mend.weights(key)
  return strike(key, function(text) local n = finite(text) return n and n >= 1e-9 and n <= 1e9 end)
end

function mend.seconds(key)
  return strike(key, function(text) local n = finite(text) return n and n >= 0 and n < FAR_S end)
end

-- A counter that is out of all proportion is that of a tenant that has come just now: it starts with the others.
function mend.busy(key)
  local far = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', FAR_S), '+inf')
  for _, tenant in ipairs(far) do
    redis.call('ZADD', key, -1, tenant)
  end
  return #far
end

function mend.idle(key)
  return redis.call('ZREMRANGEBYSCORE', key, string.format('(%.0f', FAR_S), '+inf')
    + redis.call('ZREMRANGEBYSCORE', key, '-inf', '(0')
end

-- A lease that would never end: who holds it and lives renews it.
function mend.leases(key)
  local far = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', now + DAY_S), '+inf')
  for _, consumer in ipairs(far) do
    redis.call('ZADD', key, string.format('%.6f', now + 30), consumer)
  end
  return #far
end

function mend.held(key)
  local struck = 0
  for _, entry in ipairs(redis.call('SMEMBERS', key)) do
    if not string.find(entry, ' ', 2, true) then
      struck = struck + redis.call('SREM', key, entry)
    end
  end
  return struck
end

function mend.claimed(key)
  return strike(key, function(text, tag)
    local good = string.match(tag, '^%d+$') and string.find(text, '^%z?[^%z]+%z')
    if not good then
      redis.pcall('HSET', ARGV[1] .. key, tag, text)
      redis.call('EXPIRE', ARGV[1] .. key, ARGV[2])
    end
    return good
  end)
end

local done = {}
for i, key in ipairs(KEYS) do
  local wanted, content = ARGV[1 + 2 * i], ARGV[2 + 2 * i]
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= wanted then
    redis.call('RENAME', key, ARGV[1] .. key)
    redis.call('EXPIRE', ARGV[1] .. key, ARGV[2])
    done[#done + 1] = key
    done[#done + 1] = 'a ' .. is .. ', set aside'
  elseif is ~= 'none' and content ~= '' then
    local struck = mend[content](key)
    if struck > 0 then
      done[#done + 1] = key
      done[#done + 1] = struck .. ' of its entries repaired or removed'
    end
  end
end
return done
