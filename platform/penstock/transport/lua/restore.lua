-- Give back what a consumer held that is gone: one whose lease has ended, or a given one.
--
-- KEYS  1 leases of the consumers (zset)
-- ARGV  1 what precedes a consumer in the key of its messages   2 what precedes a queue in the name of its bell
--       3 what precedes the keys of the tenants   4 life of a bell, seconds   5 most messages to move
--       6 a consumer, or "" for the one whose lease ended first   7 text that marks a message as redelivered, or ""
--
-- Returns { messages moved, 1 if there is more to do }. The messages go to the head of their queues, the youngest
-- first, so that the oldest is the next to be claimed.
--
-- When one call cannot move all, what is left is renamed, so that the consumer, should it live after all, learns of
-- its loss at its next claim instead of going on with half of its messages.

local time = redis.call('TIME')
local now = string.format('%.6f', time[1] + time[2] / 1e6)
local limit = tonumber(ARGV[5])
local consumer = ARGV[6]
if consumer == '' then
  consumer = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
  if not consumer then
    return { 0, 0 }
  end
end
local hash = ARGV[1] .. consumer
redis.call('HDEL', hash, '') -- lets the script run on a full server: see claim.lua
local tags = redis.call('HKEYS', hash)
table.sort(tags, function(a, b) return tonumber(a) > tonumber(b) end)

local mark, rung = ARGV[7], {}
local moved = math.min(#tags, limit)
for i = 1, moved do
  local held = redis.call('HGET', hash, tags[i])
  local charge, list, message = open_held(held)
  rung[ARGV[2] .. put_back(ARGV[3], list, marked(message, mark), charge)] = true
  redis.call('HDEL', hash, tags[i])
end
for bell in pairs(rung) do
  if redis.call('EXISTS', bell) == 0 then
    redis.call('LPUSH', bell, '1')
    redis.call('EXPIRE', bell, ARGV[4])
  end
end

redis.call('ZREM', KEYS[1], consumer)
if #tags > moved then
  local rest = consumer
  if string.sub(rest, -5) ~= '!lost' then
    rest = rest .. '!lost'
    redis.call('RENAME', hash, ARGV[1] .. rest)
  end
  redis.call('ZADD', KEYS[1], 0, rest)
  return { moved, 1 }
end
return { moved, redis.call('ZCOUNT', KEYS[1], '-inf', now) > 0 and 1 or 0 }
