-- Look at all work at one instant: what is ready, what is held, what was done, what tenants are kept to.
--
-- KEYS  the queues
-- ARGV  1 what precedes the keys of the tenants   2 leases of the consumers (zset); '' looks at no consumer
--       3 what precedes a consumer in the key of its messages   4 jobs done per queue (hash)
--       5 device seconds per queue (hash)   6 refused jobs per queue (hash)
--       7 most tenants to count, over all queues, besides 'default'   8 most consumers to count
--       9 most held messages to read   10 of one consumer at most, unless there is room   11… consumers to read first
--
-- Returns JSON, since a client reads thousands of replies one by one, and a text at once; where nothing is in a list,
-- cjson writes {}:
--   ready      per queue { tenant: count }
--   jobs, seconds, refused   per queue what the hashes say, '' for nothing
--   holding    { consumer: messages that it holds } of those that hold any
--   read       { consumer: { list's queue: count } } of those whose messages were read
--   caps       { tenant: { cap, held } } of the tenants that were counted
--   uncounted, unread        { queue's number, tenant } and consumers that were not counted
--
-- However large the fleet, the call is short: what is beyond the bounds is named, and asked for piece by piece.

local tenants_left, consumers_left, messages_left = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

-- The queue of a held message, as `open_held` and `owner_of` have it, without a copy of the message.
local function queue_of(held)
  local start = 1
  if string.byte(held, 1) == 0 then
    start = (string.find(held, '\0', 2, true) or 0) + 1
  end
  local cut = string.find(held, '\0', start, true)
  if not cut or cut == start then
    return nil
  end
  return (owner_of(string.sub(held, start, cut - 1)))
end

local function list_in(key, from, to)
  local found = redis.pcall('ZRANGE', key, from, to)
  return found.err and {} or found
end

-- Fields of a hash, '' where there is none; as many at a time as a call may have arguments.
local function fields_of(hash, fields)
  local values = {}
  for from = 1, #fields, 1000 do
    local to = math.min(from + 999, #fields)
    local found = redis.pcall('HMGET', hash, unpack(fields, from, to))
    for i = 1, to - from + 1 do
      values[#values + 1] = not found.err and found[i] or ''
    end
  end
  return values
end

local ready, uncounted, waiting, known = {}, {}, {}, {}
for i, queue in ipairs(KEYS) do
  local counts = {}
  local function count(tenant)
    local _, messages = lengths_of(lists_of(queue, tenant))
    if messages > 0 then
      counts[tenant] = messages
      if not known[tenant] then
        known[tenant] = true
        waiting[#waiting + 1] = tenant
      end
    end
  end
  count('default')
  for _, tenant in ipairs(list_in(ARGV[1] .. 'busy:' .. queue, 0, -1)) do
    if tenant ~= 'default' then
      if tenants_left > 0 then
        tenants_left = tenants_left - 1
        count(tenant)
      else
        uncounted[#uncounted + 1] = { i, tenant }
      end
    end
  end
  ready[i] = counts
end

local caps = {}
for i, text in ipairs(fields_of(ARGV[1] .. 'cap', waiting)) do
  local cap = text ~= '' and cap_of(text)
  if cap then
    local running = redis.pcall('SCARD', ARGV[1] .. 'held:' .. waiting[i])
    caps[waiting[i]] = { cap, type(running) == 'number' and running or 0 }
  end
end

local consumers = ARGV[2] == '' and {} or list_in(ARGV[2], 0, -1)
local holders, holding, lengths = {}, {}, {}
local function length_of(consumer)
  local messages = redis.pcall('HLEN', ARGV[3] .. consumer)
  lengths[consumer] = type(messages) == 'number' and messages or 0
  return lengths[consumer]
end
for i = 1, math.min(consumers_left, #consumers) do
  local messages = length_of(consumers[i])
  if messages > 0 then
    holders[#holders + 1] = consumers[i]
    holding[consumers[i]] = messages
  end
end
local unread = {}
for i = consumers_left + 1, #consumers do
  unread[#unread + 1] = consumers[i]
end

local each = math.max(tonumber(ARGV[10]), math.floor(messages_left / math.max(#consumers, 1)))
local read, done = {}, {}
local function look_at(consumer)
  local messages = lengths[consumer] or length_of(consumer)
  if messages == 0 or done[consumer] or messages_left < math.min(messages, each) then
    return
  end
  done[consumer] = true
  local hash, held = ARGV[3] .. consumer, {}
  if messages <= each then
    held = redis.call('HVALS', hash)
  else
    local pairs_of = redis.call('HRANDFIELD', hash, each, 'WITHVALUES')
    for i = 2, #pairs_of, 2 do
      held[#held + 1] = pairs_of[i]
    end
  end
  messages_left = messages_left - #held
  local counts = {}
  for i = 1, #held do
    local queue = queue_of(held[i])
    if queue then
      counts[queue] = (counts[queue] or 0) + 1
    end
  end
  read[consumer] = counts
end
for i = 11, #ARGV do
  look_at(ARGV[i])
end
for _, consumer in ipairs(holders) do
  if messages_left <= 0 then
    break
  end
  look_at(consumer)
end

return cjson.encode({
  ready = ready,
  jobs = fields_of(ARGV[4], KEYS),
  seconds = fields_of(ARGV[5], KEYS),
  refused = fields_of(ARGV[6], KEYS),
  holding = holding,
  read = read,
  caps = caps,
  uncounted = uncounted,
  unread = unread,
})
