-- Names what the engine knows. The name is made when there is none: the engine is new, or has lost everything.
--
-- KEYS: the key with the name. It does not expire.
-- ARGV: the name to give; for how many milliseconds it is young.
-- Returns the name, for how many milliseconds more it is young, and the engine's time in milliseconds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local value = redis.call('GET', KEYS[1])
if not value then
  value = ARGV[1] .. ' ' .. string.format('%.0f', now)
  redis.call('SET', KEYS[1], value)
end
local made = tonumber(string.match(value, '(%d+)$')) or now
local young = tonumber(ARGV[2])
return { value, math.max(0, math.min(made + young - now, young)), string.format('%.0f', now) }
