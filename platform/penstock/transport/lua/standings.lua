-- Who waits in queues: per queue the tenants' messages by priority, weights and caps, at one instant.
--
-- KEYS  the queues
-- ARGV  1 what precedes the keys of the tenants   2 most tenants of a queue to name
--       then per queue: how many tenants are named in any case, then their names
--
-- Returns per queue { how many tenants have messages or may have, tenant, length of the lists of priority step 9, 6, 3,
-- 0, weight or "", cap or "", ... }: those that are named, those whose turn comes first, and "default" if it waits.

local tenants, most, at = ARGV[1], tonumber(ARGV[2]), 3
local answer = {}
for i, queue in ipairs(KEYS) do
  local names, seen = {}, {}
  local function name(tenant)
    if not seen[tenant] then
      seen[tenant] = true
      names[#names + 1] = tenant
    end
  end
  local _, plain = lengths_of(lists_of(queue, 'default'))
  if plain > 0 then
    name('default')
  end
  for j = at + 1, at + tonumber(ARGV[at]) do
    name(ARGV[j])
  end
  at = at + 1 + tonumber(ARGV[at])
  local busy = tenants .. 'busy:' .. queue
  for _, tenant in ipairs(redis.call('ZRANGE', busy, 0, most - 1)) do
    name(tenant)
  end
  local count = redis.call('ZCARD', busy)
  local one = { count }
  for _, tenant in ipairs(names) do
    one[#one + 1] = tenant
    for _, length in ipairs((lengths_of(lists_of(queue, tenant)))) do
      one[#one + 1] = length
    end
    one[#one + 1] = redis.call('HGET', tenants .. 'weight', tenant) or ''
    one[#one + 1] = redis.call('HGET', tenants .. 'cap', tenant) or ''
  end
  answer[i] = one
end
return answer
