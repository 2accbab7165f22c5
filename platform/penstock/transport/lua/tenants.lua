-- What the scripts share on tenants. Prepended to those that need it; `scripts.py` says to which.
--
-- A tenant other than "default" has lists of its own in each queue: the queue's list, separator, step, separator,
-- tenant. Each queue has two books of virtual counters (weighted device seconds), under the prefix `tenants`:
--   busy:{queue}  tenants that may have messages there; a counter below 0 marks one that no claim has looked at yet
--   idle:{queue}  counters of the others that are ahead of the busy ones; the member '' keeps the least one
-- A held message is: list, NUL, message. One that was charged: NUL, charge, NUL, list, NUL, message.
-- The rules are those of `penstock.policy.fairness`, which a test compares with these scripts.

local SEP = '\6\22'

-- The lists of a tenant in a queue, in the order in which they are served.
local function lists_of(queue, tenant)
  if tenant == 'default' then
    return { queue .. SEP .. '9', queue .. SEP .. '6', queue .. SEP .. '3', queue }
  end
  local tail = SEP .. tenant
  return { queue .. SEP .. '9' .. tail, queue .. SEP .. '6' .. tail, queue .. SEP .. '3' .. tail, queue .. SEP .. '0' .. tail }
end

-- How many messages stand on each of some lists, and on all. A key of another type counts nothing.
local function lengths_of(lists)
  local lengths, total = {}, 0
  for i = 1, #lists do
    local length = redis.pcall('LLEN', lists[i])
    lengths[i] = type(length) == 'number' and length or 0
    total = total + lengths[i]
  end
  return lengths, total
end

-- A held message's charge ('' when there was none), list and text.
local function open_held(held)
  local charge, start = '', 1
  if string.byte(held, 1) == 0 then
    local cut = string.find(held, '\0', 2, true)
    charge, start = string.sub(held, 2, cut - 1), cut + 1
  end
  local cut = string.find(held, '\0', start, true)
  return charge, string.sub(held, start, cut - 1), string.sub(held, cut + 1)
end

-- A message with the text `mark` at its end, inside the closing brace; '' marks nothing, and nothing is marked twice.
local function marked(message, mark)
  if mark ~= '' and string.sub(message, -1) == '}' and string.sub(message, -#mark - 1) ~= mark .. '}' then
    return string.sub(message, 1, -2) .. mark .. '}'
  end
  return message
end

-- Whose list this is: queue and tenant.
local function owner_of(list)
  local cut = string.find(list, SEP, 1, true)
  if not cut then
    return list, 'default'
  end
  local again = string.find(list, SEP, cut + 2, true)
  return string.sub(list, 1, cut - 1), again and string.sub(list, again + 2) or 'default'
end

-- The counter at which a tenant starts that becomes busy now.
local function least(tenants, queue)
  local first = redis.call('ZRANGEBYSCORE', tenants .. 'busy:' .. queue, 0, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return tonumber(first[2] or redis.call('ZSCORE', tenants .. 'idle:' .. queue, '') or 0)
end

-- Add to a tenant's counter, busy or not.
local function charge_tenant(tenants, queue, tenant, amount)
  local busy, idle = tenants .. 'busy:' .. queue, tenants .. 'idle:' .. queue
  local counter = tonumber(redis.call('ZSCORE', busy, tenant) or -1)
  if counter >= 0 then
    redis.call('ZADD', busy, math.max(counter + amount, 0), tenant)
    return
  end
  local saved = redis.call('ZSCORE', idle, tenant)
  if saved or amount > 0 then
    redis.call('ZADD', idle, math.max(tonumber(saved or least(tenants, queue)) + amount, 0), tenant)
  end
end

-- A message goes back to the head of its list: its tenant is not charged for it, and has a message again.
local function put_back(tenants, list, message, charge)
  redis.call('RPUSH', list, message)
  local queue, tenant = owner_of(list)
  if charge ~= '' then
    charge_tenant(tenants, queue, tenant, -tonumber(charge))
  end
  if tenant ~= 'default' then
    redis.call('ZADD', tenants .. 'busy:' .. queue, 'NX', -1, tenant)
  end
  return queue
end

