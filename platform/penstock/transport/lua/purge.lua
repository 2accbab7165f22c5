-- Remove a queue's ready messages, all tenants'. Claimed ones stay.
--
-- KEYS  1 the queue   2 its bell
-- ARGV  1 what precedes the keys of the tenants
--
-- Returns how many were removed.

local queue, busy = KEYS[1], ARGV[1] .. 'busy:' .. KEYS[1]
local removed = 0
local function purge(tenant)
  local lists = lists_of(queue, tenant)
  local _, ready = lengths_of(lists)
  removed = removed + ready
  redis.call('DEL', unpack(lists))
end
purge('default')
for _, tenant in ipairs(redis.call('ZRANGE', busy, 0, -1)) do
  purge(tenant)
  dismiss(ARGV[1], queue, tenant, math.max(tonumber(redis.call('ZSCORE', busy, tenant)), 0))
end
redis.call('DEL', KEYS[2])
return removed
