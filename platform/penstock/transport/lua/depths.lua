-- Count the ready messages of queues, per tenant, at one instant.
--
-- KEYS  the queues
-- ARGV  1 what precedes the keys of the tenants
--
-- Returns per queue { tenant, count, ... }, without those that have none.

local answer = {}
for i, queue in ipairs(KEYS) do
  local counts = {}
  local function count(tenant)
    local _, ready = lengths_of(lists_of(queue, tenant))
    if ready > 0 then
      counts[#counts + 1] = tenant
      counts[#counts + 1] = ready
    end
  end
  count('default')
  for _, tenant in ipairs(redis.call('ZRANGE', ARGV[1] .. 'busy:' .. queue, 0, -1)) do
    if tenant ~= 'default' then
      count(tenant)
    end
  end
  answer[i] = counts
end
return answer
