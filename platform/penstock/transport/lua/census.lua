-- Count what one consumer holds, per list.
--
-- KEYS  1 messages that the consumer holds (hash)
--
-- Returns { list, count, list, count, ... }.

local counts = {}
for _, held in ipairs(redis.call('HVALS', KEYS[1])) do
  local _, list = open_held(held)
  if list then
    counts[list] = (counts[list] or 0) + 1
  end
end
local answer = {}
for list, count in pairs(counts) do
  answer[#answer + 1] = list
  answer[#answer + 1] = count
end
return answer
