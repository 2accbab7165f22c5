-- Set the weights and caps of all tenants, in the place of what was set before.
--
-- KEYS  1 leases of the consumers (zset)
-- ARGV  1 what precedes the keys of the tenants   2 what precedes a consumer in the key of its messages
--       then per tenant: its name, weight, and cap ("" for none)
--
-- A tenant's first cap needs to know what is running already; that is read once from what the consumers hold. From then
-- on each claim writes it down. Returns how many caps are new.

local tenants = ARGV[1]
local old = {}
for _, tenant in ipairs(redis.call('HKEYS', tenants .. 'cap')) do
  old[tenant] = true
end
redis.call('DEL', tenants .. 'weight', tenants .. 'cap')
local fresh, count = {}, 0
for i = 3, #ARGV, 3 do
  local tenant, cap = ARGV[i], ARGV[i + 2]
  redis.call('HSET', tenants .. 'weight', tenant, ARGV[i + 1])
  if cap ~= '' then
    redis.call('HSET', tenants .. 'cap', tenant, cap)
    if not old[tenant] then
      fresh[tenant], count = true, count + 1
    end
    old[tenant] = nil
  end
end
for tenant in pairs(old) do
  redis.call('DEL', tenants .. 'held:' .. tenant)
end
if count > 0 then
  for _, consumer in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local held = redis.call('HGETALL', ARGV[2] .. consumer)
    for i = 1, #held, 2 do
      local _, list = open_held(held[i + 1])
      local _, tenant = owner_of(list or '')
      if fresh[tenant] then
        redis.call('SADD', tenants .. 'held:' .. tenant, held[i] .. ' ' .. consumer)
      end
    end
  end
end
return count
