-- Counts the different one-time keys of a user, by the engine's time.
--
-- KEYS: the user's keys, a sorted set by the time at which each was answered first, in microseconds.
-- ARGV: the key that asks; the period, in microseconds; how many different ones any period has.
-- Returns { 'new' }, { 'repeated' }, or { 'limited', how many microseconds until the oldest is forgotten }.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local period, most = tonumber(ARGV[2]), tonumber(ARGV[3])

local function text(number)
  return string.format('%.0f', number)
end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now - period))
-- A clock that was set back keeps no key for longer than a period from now.
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. text(now), '+inf')) do
  redis.call('ZADD', KEYS[1], text(now), key)
end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return { 'repeated', '0' } end
if redis.call('ZCARD', KEYS[1]) >= most then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return { 'limited', text(tonumber(oldest[2]) + period - now) }
end
redis.call('ZADD', KEYS[1], text(now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], text(math.ceil(period / 1000)))
return { 'new', '0' }
