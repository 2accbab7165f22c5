-- Acknowledge messages whose device time is known: the tenants are charged what the claim's guess left out.
--
-- KEYS  1 messages that the consumer holds (hash)
-- ARGV  1 what precedes the keys of the tenants   2 what precedes a queue in the name of its bell
--       3 life of a bell, seconds   then per message: its tag, and the device seconds it took (0: it never ran)
--
-- Returns how many were held. A tag that is not held any more changes nothing, so the call may be repeated.
-- The queue of a tenant with a cap has its bell rung: there is room for another of its jobs.

redis.call('HDEL', KEYS[1], '') -- lets the script run on a full server: see claim.lua
local tenants = ARGV[1]
local weights, used, capped, settled = {}, {}, {}, 0
for i = 4, #ARGV, 2 do
  local held = redis.call('HGET', KEYS[1], ARGV[i])
  if held then
    redis.call('HDEL', KEYS[1], ARGV[i])
    settled = settled + 1
    local charge, list = open_held(held)
    local queue, tenant = owner_of(list or '')
    local seconds = tonumber(ARGV[i + 1])
    if not weights[tenant] then
      weights[tenant] = weight_of(redis.call('HGET', tenants .. 'weight', tenant))
      capped[tenant] = redis.call('HEXISTS', tenants .. 'cap', tenant) == 1
    end
    if charge ~= '' then
      charge_tenant(tenants, queue, tenant, seconds / weights[tenant] - number_of(charge, 0))
    end
    used[tenant] = (used[tenant] or 0) + seconds
    if capped[tenant] then
      local bell = ARGV[2] .. queue
      if redis.call('EXISTS', bell) == 0 then
        redis.call('LPUSH', bell, '1')
        redis.call('EXPIRE', bell, ARGV[3])
      end
    end
  end
end
for tenant, seconds in pairs(used) do
  redis.call('HINCRBYFLOAT', tenants .. 'used', tenant, string.format('%.9f', seconds))
end
return settled
