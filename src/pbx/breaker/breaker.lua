-- The breaker that members share, by the engine's time.
--
-- KEYS[1]: a hash: `open`, until when no request is sent; `probe`, until when the outcome of one is awaited. Milliseconds.
-- ARGV: what to do; how long the breaker is open, and how long it is remembered, in milliseconds; the channel; the message.
-- Returns the state, and how long to wait in milliseconds: 'closed', 'open', 'probed' (another member asks), 'probe' (ask).
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local length = tonumber(ARGV[2])

-- A clock that was set back must not keep the breaker open for longer than it ever is.
local function left(field)
  local until_when = tonumber(redis.call('HGET', KEYS[1], field) or '0') or 0
  return math.min(until_when - now, length)
end

if ARGV[1] == 'refused' then
  redis.call('HSET', KEYS[1], 'open', now + length)
  redis.call('HDEL', KEYS[1], 'probe')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('PUBLISH', ARGV[4], ARGV[5])
  return { 'open', length }
elseif ARGV[1] == 'accepted' then
  if redis.call('DEL', KEYS[1]) == 1 then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
  return { 'closed', 0 }
elseif ARGV[1] == 'unknown' then
  redis.call('HDEL', KEYS[1], 'probe')
end
if redis.call('HEXISTS', KEYS[1], 'open') == 0 then return { 'closed', 0 } end
local open, probe = left('open'), left('probe')
if open > 0 then return { 'open', open } end
if probe > 0 then return { 'probed', probe } end
if ARGV[1] == 'ask' then redis.call('HSET', KEYS[1], 'probe', now + length) end
return { 'probe', 0 }
