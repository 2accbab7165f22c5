-- Put claimed messages back at the head of their queues, in their original order.
--
-- KEYS  1 messages that this consumer holds (hash)
-- ARGV  1 what precedes a queue in the name of its bell   2 what precedes the keys of the tenants   3 life of a bell, s
--       4 text that marks a message as redelivered, or ""
--       then the tags, the largest first: the oldest message is pushed last and is the next to be claimed
--
-- Returns how many were put back. A tag that is not held is passed over.

redis.call('HDEL', KEYS[1], '') -- lets the script run on a full server: see claim.lua
local moved, rung = 0, {}
for i = 5, #ARGV do
  local held = redis.call('HGET', KEYS[1], ARGV[i])
  if held then
    local charge, list, message = open_held(held)
    rung[ARGV[1] .. put_back(ARGV[2], list, marked(message, ARGV[4]), charge)] = true
    redis.call('HDEL', KEYS[1], ARGV[i])
    moved = moved + 1
  end
end
for bell in pairs(rung) do
  if redis.call('EXISTS', bell) == 0 then
    redis.call('LPUSH', bell, '1')
    redis.call('EXPIRE', bell, ARGV[3])
  end
end
return moved
