-- Acknowledge old messages, refresh the lease, and take new messages from several queues, in one step.
--
-- KEYS  1 leases of the consumers (zset)
--       2 messages that this consumer holds (hash)
--       3 counter of delivery tags
--       then per queue: its bell, and its lists in the order in which they are served
--       then the same for the twins of queues: they share the quota of the queue, and its place in the answer
-- ARGV  1 consumer   2 lease, seconds   3 "1" to join (the consumer's first call)
--       4 most messages in all, over the quotas   5 lists per queue   6 life of a bell, seconds
--       7 what precedes the keys of the tenants   8 a digit per queue, or nothing: of the queues with a 1, only the one
--       is taken from whose head has waited longest   9 a digit per queue, or nothing: those with a 1 have a twin
--       10 number of acknowledged tags, then these tags, then one quota per queue, then, if known, the device seconds
--       that a job of each queue is expected to take (else 1 each)
--
-- Returns -1 when the lease was lost (the acknowledgements are void then too), 0 when there was nothing, else
-- { first tag, "count,count,...;length,length,...", all messages in one string }: one count per queue, one length
-- per message. The tags of the messages are consecutive. One string, since clients read a long list slowly. A count
-- ends with "f" where tenants were charged for these messages, which are settled with their true device time then. Of a
-- queue with a twin that has messages it is "count+count", in the order in which the two were taken from.
--
-- Who serves several models at once would else take a little of each: small batches, and what waits for its turn in
-- one worker is out of reach for the others.
--
-- Where no tenant but "default" has messages and that one has no cap, a queue is served by priority and age alone.
-- Where tenants share a queue, each message goes to the tenant with the least counter: see `fair.lua`.
--
-- A queue that is left with messages has its bell rung, so that the next idle consumer wakes; one that was found
-- empty has its bell silenced.

local consumer, lease, limit, lists = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tenants, one_of, paired, acks = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local CHUNK = 1000 -- unpack() cannot push many more values at once

-- A server at its memory limit refuses commands that can grow it, unless the script has written before. Claiming must
-- go on there, since it is what empties the queues. So this comes first; a tag is never empty.
redis.call('HDEL', KEYS[2], '')
for i = 11, 10 + acks, CHUNK do
  redis.call('HDEL', KEYS[2], unpack(ARGV, i, math.min(i + CHUNK - 1, 10 + acks)))
end

local ends = redis.call('ZSCORE', KEYS[1], consumer)
if not ends and ARGV[3] ~= '1' then
  return -1
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
if not ends or tonumber(ends) - now < lease * 2 / 3 then -- not each time: an idle consumer should write nothing
  redis.call('ZADD', KEYS[1], string.format('%.6f', now + lease), consumer)
end

local counts, lengths, messages, held = {}, {}, {}, {}
local total, queues = 0, (#KEYS - 3) / (lists + 1)
local twins = {} -- queue -> where its twin's keys begin
for queue in string.gmatch(paired, '()1') do
  twins[queue], queues = true, queues - 1
end
local place = 4 + queues * (lists + 1)
for queue = 1, queues do
  if twins[queue] then
    twins[queue], place = place, place + lists + 1
  end
end
local capped = queues > 0 and redis.call('HEXISTS', tenants .. 'cap', 'default') == 1
local noted = {} -- what the tenants with caps take: tenant -> positions
local unacked = string.sub(KEYS[2], 1, -#consumer - 1)

-- Whether tenants take turns in a queue.
local function is_shared(queue)
  return capped or redis.call('EXISTS', tenants .. 'busy:' .. queue) == 1
end

-- Since when the head of a queue has waited, Unix seconds; nil when there is none that may be claimed. Of a message that
-- does not say (it is no plain job), a second: it neither waits for ever nor stands before all others. The step of a run
-- that is late counts from when it should have begun: else what it has overtaken would wait behind other queues.
local function waits_since(first)
  local queue, since = KEYS[first + lists], nil
  local heads = lists_of(queue, 'default')
  if is_shared(queue) then
    open_books(tenants, queue)
    local found = candidates_of(tenants, queue, 1, unacked, noted) -- whose turn it is, all at their caps left out
    heads = found[1] and found[1].lists or {}
  end
  for _, list in ipairs(heads) do
    local head = redis.pcall('LINDEX', list, -1)
    if type(head) == 'string' then
      local _, last, said = string.find(head, '"at":(%d+%.?%d*),"deadline":')
      local at = tonumber(said or now - 1)
      local start_by = last and tonumber(string.match(head, '^[%d.]+,"start_by":(%d+%.?%d*)', last + 1))
      since = math.min(since or at, start_by or at, at)
    end
  end
  return since
end

-- The earlier of two times, each of which may be nil.
local function earlier(a, b)
  return a and b and math.min(a, b) or a or b
end

-- Of the queues that may be taken from, the one whose head has waited longest. Nothing when there are not two.
local function oldest_of(may)
  local among, oldest, since = 0, nil, nil
  for queue = 1, queues do
    if may(queue) then
      local at = waits_since(4 + (queue - 1) * (lists + 1))
      if twins[queue] then
        at = earlier(at, waits_since(twins[queue]))
      end
      among = among + 1
      if at and (not since or at < since) then
        oldest, since = queue, at
      end
    end
  end
  return among > 1 and oldest
end

local function take(head, message, tenant)
  total = total + 1
  messages[total], lengths[total] = message, #message
  held[total] = head .. message
  if tenant.capped then
    noted[tenant.name] = noted[tenant.name] or {}
    table.insert(noted[tenant.name], total)
  end
end

local broken -- what was in the way of a queue, as the server said; told when nothing else was there to be taken

-- What `call` returns; nothing where a broken key is in its way: messages may have been popped before.
local function unbroken(call, ...)
  local went, answer = pcall(call, ...)
  if went then
    return answer
  end
  broken = broken or type(answer) == 'table' and answer.err or tostring(answer)
end

-- Take up to `wanted` messages of the queue whose keys begin at `first`: how many they were, as the answer has it too. The
-- bell is seen to where the queue was `asked` for; of a `passed` one it is left alone while there is something.
local function serve(first, wanted, charge, asked, passed)
  local queue, got = KEYS[first + lists], 0
  local shared = wanted > 0 and not passed and is_shared(queue)
  if shared then
    local before = total
    unbroken(take_fairly, tenants, queue, wanted, charge, unacked, noted, take)
    got = total - before
  elseif not passed then
    for list = first + 1, first + lists do
      if got >= wanted then break end
      -- pcall, since an error (a key of another type) must not end the script after messages were popped.
      local popped = redis.pcall('RPOP', KEYS[list], wanted - got)
      if popped and not popped.err then
        for i = 1, #popped do
          messages[total + i] = popped[i]
          lengths[total + i] = #popped[i]
          held[total + i] = KEYS[list] .. '\0' .. popped[i]
        end
        total, got = total + #popped, got + #popped
      end
    end
  end
  if asked then
    if got < wanted and not passed then
      redis.call('DEL', KEYS[first])
    elseif redis.call('EXISTS', tenants .. 'busy:' .. queue, unpack(KEYS, first + 1, first + lists)) > 0
        and redis.call('EXISTS', KEYS[first]) == 0 then
      redis.call('LPUSH', KEYS[first], '1')
      redis.call('EXPIRE', KEYS[first], ARGV[6])
    end
  end
  return got, shared and got .. 'f' or got
end

local chosen = #one_of > 0 and oldest_of(function(queue)
  return string.sub(one_of, queue, queue) == '1' and tonumber(ARGV[10 + acks + queue]) > 0
end)
for queue = 1, queues do
  local first, second = 4 + (queue - 1) * (lists + 1), twins[queue]
  local wanted = math.min(tonumber(ARGV[10 + acks + queue]), limit - total)
  local passed = chosen and queue ~= chosen and string.sub(one_of, queue, queue) == '1'
  local charge = tonumber(ARGV[10 + acks + queues + queue] or 1)
  -- Most twins are empty, and cost one command.
  if second and (wanted <= 0
      or redis.call('EXISTS', tenants .. 'busy:' .. KEYS[second + lists], unpack(KEYS, second, second + lists)) == 0) then
    second = nil
  end
  if second and not passed then
    local here, there = unbroken(waits_since, first), unbroken(waits_since, second)
    if there and (not here or there < here) then
      first, second = second, first
    end
  end
  local got, count = serve(first, wanted, charge, wanted > 0, passed)
  if second then
    local _, more = serve(second, wanted - got, charge, true, passed)
    count = count .. '+' .. more
  end
  counts[queue] = count
end
if total == 0 then
  return broken and redis.error_reply(broken) or 0
end

-- Tags start at the server's clock in microseconds, so that they never come again after the counter was lost.
redis.pcall('SETNX', KEYS[3], string.format('%.0f', time[1] * 1e6 + time[2]))
local last = redis.pcall('INCRBY', KEYS[3], total)
if type(last) ~= 'number' or last <= total or last > 9e15 then -- broken: the messages are taken, so not an error
  redis.call('SET', KEYS[3], string.format('%.0f', time[1] * 1e6 + time[2]))
  last = redis.call('INCRBY', KEYS[3], total)
end
local first = last - total + 1
for i = 1, total, CHUNK do
  local fields = {}
  for j = i, math.min(i + CHUNK - 1, total) do
    fields[#fields + 1] = string.format('%.0f', first + j - 1)
    fields[#fields + 1] = held[j]
  end
  redis.call('HSET', KEYS[2], unpack(fields))
end
for tenant, places in pairs(noted) do
  for _, place in ipairs(places) do
    redis.pcall('SADD', tenants .. 'held:' .. tenant, string.format('%.0f %s', first + place - 1, consumer))
  end
end
return { first, table.concat(counts, ',') .. ';' .. table.concat(lengths, ','), table.concat(messages) }
