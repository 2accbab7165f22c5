-- Append pieces of partial output of steps of runs: each to the stream of its step, and to that of its run.
--
-- KEYS  per piece: the stream of the step, the stream of the run
-- ARGV  1 pieces that are kept (about)   2 life of a stream, ms   3 when, Unix seconds   4 when, Unix microseconds
--       then per piece: its id in the step's stream (attempt-index), attempt of the run, path and id of the step, and
--       the piece, JSON text
--
-- Returns how many were new. A piece that its step's stream has, or that is older than what it has, changes nothing, so
-- the call may be repeated. In the run's stream a piece comes behind the last one; the first is placed by the time, so
-- that a stream which the broker has lost goes on behind what readers have seen of it.

local new = 0
for i = 1, #KEYS, 2 do
  local at = 5 + (i - 1) / 2 * 5
  local attempt, place = ARGV[at + 1], ARGV[4]
  local last = redis.call('XREVRANGE', KEYS[i + 1], '+', '-', 'COUNT', 1)[1]
  local void = false -- the run is tried again since
  if last then
    local begun, index = string.match(last[1], '^(%d+)-(%d+)$')
    void = tonumber(begun) > tonumber(attempt)
    if begun == attempt then
      place = string.format('%.0f', tonumber(index) + 1)
    end
  end
  local mine = redis.pcall('XADD', KEYS[i], 'MAXLEN', '~', ARGV[1], ARGV[at], 'at', ARGV[3], 'data', ARGV[at + 4])
  if type(mine) == 'table' and mine.err then
    if not string.find(mine.err, 'equal or smaller', 1, true) then
      return mine
    end
  else
    new = new + 1
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
    if not void then
      redis.call('XADD', KEYS[i + 1], 'MAXLEN', '~', ARGV[1], attempt .. '-' .. place, 'at', ARGV[3],
        'data', ARGV[at + 4], 'step', ARGV[at + 2], 'job', ARGV[at + 3], 'piece', ARGV[at])
      redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
    end
  end
end
return new
