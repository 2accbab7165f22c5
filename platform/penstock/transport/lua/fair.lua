-- Whose messages a claim takes where tenants share a queue. Prepended to the claim, behind `tenants.lua`.

-- Tenants that have come (back) start at the least counter of the busy ones: idle time earns nothing.
local function admit(tenants, queue)
  local busy, idle = tenants .. 'busy:' .. queue, tenants .. 'idle:' .. queue
  local come = redis.call('ZRANGEBYSCORE', busy, '-inf', '(0')
  if #come > 0 then
    local start = least(tenants, queue)
    for _, tenant in ipairs(come) do
      local saved = tonumber(redis.call('ZSCORE', idle, tenant) or 0)
      redis.call('ZREM', idle, tenant)
      redis.call('ZADD', busy, math.max(saved, start), tenant)
    end
  end
end

-- A tenant without messages: its counter is kept for as long as it is ahead of the others.
local function dismiss(tenants, queue, tenant, counter)
  local busy, idle = tenants .. 'busy:' .. queue, tenants .. 'idle:' .. queue
  redis.call('ZREM', busy, tenant)
  local first = redis.call('ZRANGEBYSCORE', busy, 0, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local start = tonumber(first[2] or counter)
  redis.call('ZADD', idle, start, '')
  if counter > start then
    redis.call('ZADD', idle, counter, tenant)
  end
  redis.call('ZREMRANGEBYSCORE', idle, '-inf', string.format('(%.17g', start))
end

-- How many more jobs a tenant with a cap may have running. Acknowledgements are not told to `held`: what it lists and
-- nobody holds any more is struck off here, so the count cannot leak whatever became of a message or its consumer.
local function room_of(tenants, tenant, cap, wanted, unacked)
  local key = tenants .. 'held:' .. tenant
  local running = redis.call('SCARD', key)
  if cap - running < wanted and running > 0 then
    for _, entry in ipairs(redis.call('SMEMBERS', key)) do
      local cut = string.find(entry, ' ', 1, true)
      if not cut
          or redis.call('HEXISTS', unacked .. string.sub(entry, cut + 1), string.sub(entry, 1, cut - 1)) == 0 then
        redis.call('SREM', key, entry)
        running = running - 1
      end
    end
  end
  return cap - running
end

-- The tenants that a claim of `wanted` messages can come to, least counter first: as many at most, each with messages
-- and room. Also those that were found without messages, and those that were found at their caps.
local function candidates_of(tenants, queue, wanted, unacked, noted)
  local busy = tenants .. 'busy:' .. queue
  local most = math.min(math.max(wanted, 16), 1000)
  local found, empty, blocked, start = {}, {}, {}, 0
  while #found < wanted do
    local page = redis.call('ZRANGE', busy, start, start + most - 1, 'WITHSCORES')
    if #page == 0 then break end
    start = start + #page / 2
    local names = {}
    for i = 1, #page, 2 do
      names[#names + 1] = page[i]
    end
    local weights = redis.call('HMGET', tenants .. 'weight', unpack(names))
    local caps = redis.call('HMGET', tenants .. 'cap', unpack(names))
    for i, name in ipairs(names) do
      if #found >= wanted then break end
      local one = { name = name, counter = tonumber(page[2 * i]), weight = weight_of(weights[i]), taken = 0 }
      one.lists = lists_of(queue, name)
      one.lengths, one.left = lengths_of(one.lists)
      if one.left == 0 then
        empty[#empty + 1] = one
      else
        one.room = wanted
        local cap = cap_of(caps[i])
        if cap then
          one.capped = true
          one.room = room_of(tenants, name, cap, wanted, unacked) - #(noted[name] or {})
        end
        if one.room > 0 then
          found[#found + 1] = one
          one.place = #found
        else
          blocked[#blocked + 1] = one
        end
      end
    end
  end
  return found, empty, blocked
end

local function before(a, b)
  return a.counter < b.counter or (a.counter == b.counter and a.place < b.place)
end

-- Deal out `wanted` turns one by one: each to the least counter, which then grows by the turn's charge.
-- `heap` is sorted, so it is a heap. Returns the candidates in the order of their turns.
local function deal(heap, wanted, charge)
  local turns, size = {}, #heap
  while size > 0 and #turns < wanted do
    local top = heap[1]
    turns[#turns + 1] = top
    top.taken, top.left, top.room = top.taken + 1, top.left - 1, top.room - 1
    top.counter = top.counter + charge / top.weight
    if top.left == 0 or top.room == 0 then
      heap[1], heap[size], size = heap[size], nil, size - 1
    end
    local at = 1
    while true do
      local child = 2 * at
      if child > size then break end
      if child < size and before(heap[child + 1], heap[child]) then
        child = child + 1
      end
      if not before(heap[child], heap[at]) then break end
      heap[at], heap[child] = heap[child], heap[at]
      at = child
    end
  end
  return turns
end

-- Note in a queue's books who has come.
local function open_books(tenants, queue)
  local _, plain = lengths_of(lists_of(queue, 'default'))
  if plain > 0 then -- producers that know no tenants do not register theirs
    redis.call('ZADD', tenants .. 'busy:' .. queue, 'NX', -1, 'default')
  end
  admit(tenants, queue)
end

-- Take up to `wanted` messages of a queue, fairly. Calls `take(head, message, one)` for each, in order: `head` is what
-- stands before the message where it is held.
-- `noted` has what this script has taken already for tenants with caps. Returns how many were taken.
local function take_fairly(tenants, queue, wanted, charge, unacked, noted, take)
  local busy = tenants .. 'busy:' .. queue
  open_books(tenants, queue)
  local found, empty, blocked = candidates_of(tenants, queue, wanted, unacked, noted)
  for _, one in ipairs(blocked) do -- time at a cap earns no more than time without jobs
    if found[1] and one.counter < found[1].counter then
      redis.call('ZADD', busy, found[1].counter, one.name)
    end
  end
  local heap = {}
  for i, one in ipairs(found) do
    heap[i] = one
  end
  local turns = deal(heap, wanted, charge)
  for _, one in ipairs(found) do
    one.popped, one.from, one.next = {}, {}, 1
    local missing = one.taken
    local mark = string.format('\0%.17g\0', charge / one.weight)
    for i = 1, #one.lists do
      local count = math.min(missing, one.lengths[i])
      if count > 0 then
        local head = mark .. one.lists[i] .. '\0'
        for _, message in ipairs(redis.call('RPOP', one.lists[i], count)) do
          one.popped[#one.popped + 1] = message
          one.from[#one.popped] = head
        end
        missing = missing - count
      end
    end
    if one.taken > 0 then
      redis.call('ZADD', busy, one.counter, one.name)
    end
  end
  for _, one in ipairs(turns) do
    take(one.from[one.next], one.popped[one.next], one)
    one.next = one.next + 1
  end
  for _, one in ipairs(empty) do
    dismiss(tenants, queue, one.name, one.counter)
  end
  for _, one in ipairs(found) do
    if one.left == 0 then
      dismiss(tenants, queue, one.name, one.counter)
    end
  end
  -- Nobody beside "default" any more: the next claims need not ask whose turn it is.
  if redis.call('ZCARD', busy) == 1 then
    local counter = redis.call('ZSCORE', busy, 'default')
    if counter then
      dismiss(tenants, queue, 'default', tonumber(counter))
    end
  end
  return #turns
end

