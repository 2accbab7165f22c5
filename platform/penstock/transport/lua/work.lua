-- Look at all work at one instant: what is ready, what is held, what was done, what tenants are kept to.
--
-- KEYS  the queues
-- ARGV  1 what precedes the keys of the tenants   2 leases of the consumers (zset)
--       3 what precedes a consumer in the key of its messages   4 jobs done per queue (hash)
--       5 device seconds per queue (hash)   6 most held messages to look at, over all consumers
--
-- Returns { per queue { tenant, count, ... }, per queue its done jobs and device seconds { done, seconds, ... },
--           { consumer, messages that it holds, how many of them were looked at, list, count, list, count, ... } per
--           consumer that holds any, { tenant, cap, held, ... } }.
--
-- A consumer that holds many is looked at by sample, so that the call stays short however much is held: at a hundred
-- thousand held messages as at a hundred.

local ready, spent = {}, {}
for i, queue in ipairs(KEYS) do
  local counts = {}
  local function count(tenant)
    local _, messages = lengths_of(lists_of(queue, tenant))
    if messages > 0 then
      counts[#counts + 1] = tenant
      counts[#counts + 1] = messages
    end
  end
  count('default')
  local busy = redis.pcall('ZRANGE', ARGV[1] .. 'busy:' .. queue, 0, -1)
  for _, tenant in ipairs(busy.err and {} or busy) do
    if tenant ~= 'default' then
      count(tenant)
    end
  end
  ready[i] = counts
  for key = 4, 5 do
    local value = redis.pcall('HGET', ARGV[key], queue)
    spent[#spent + 1] = type(value) == 'string' and value or '0'
  end
end

local consumers = redis.pcall('ZRANGE', ARGV[2], 0, -1)
consumers = consumers.err and {} or consumers
local each = math.max(2, math.floor(tonumber(ARGV[6]) / math.max(#consumers, 1)))
local held = {}
for _, consumer in ipairs(consumers) do
  local hash = ARGV[3] .. consumer
  local messages = redis.pcall('HLEN', hash)
  if type(messages) == 'number' and messages > 0 then
    local sample = {}
    if messages <= each then
      sample = redis.call('HVALS', hash)
    else
      local pairs_of = redis.call('HRANDFIELD', hash, each, 'WITHVALUES')
      for i = 2, #pairs_of, 2 do
        sample[#sample + 1] = pairs_of[i]
      end
    end
    local counts = {}
    for _, message in ipairs(sample) do
      local _, list = open_held(message)
      if list then
        local queue = owner_of(list)
        counts[queue] = (counts[queue] or 0) + 1
      end
    end
    local one = { consumer, messages, #sample }
    for queue, count in pairs(counts) do
      one[#one + 1] = queue
      one[#one + 1] = count
    end
    held[#held + 1] = one
  end
end

local caps = {}
local found = redis.pcall('HGETALL', ARGV[1] .. 'cap')
for i = 1, found.err and 0 or #found, 2 do
  local running = redis.pcall('SCARD', ARGV[1] .. 'held:' .. found[i])
  local cap = cap_of(found[i + 1])
  if cap then
    caps[#caps + 1] = found[i]
    caps[#caps + 1] = cap
    caps[#caps + 1] = type(running) == 'number' and running or 0
  end
end
return { ready, spent, held, caps }
