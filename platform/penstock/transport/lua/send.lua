-- Send messages that must not be sent twice: each leaves a mark.
--
-- KEYS  1 the queues that were sent to (set)   then per message: its mark (string), its queue (list)
-- ARGV  1 life of a mark, seconds   then the messages
--
-- Returns per message 1 where it was sent now, 0 where it had been. So the call may be repeated.

local sent = {}
for i = 2, #ARGV do
  local mark, queue = KEYS[2 * i - 2], KEYS[2 * i - 1]
  if redis.call('EXISTS', mark) == 0 then
    redis.call('SADD', KEYS[1], queue)
    redis.call('LPUSH', queue, ARGV[i]) -- before the mark: where it is refused, there is none
    redis.call('SET', mark, '1', 'EX', ARGV[1])
    sent[#sent + 1] = 1
  else
    sent[#sent + 1] = 0
  end
end
return sent
