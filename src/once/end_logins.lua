-- Ends logins. An older end that arrives late makes no later one forgotten.
--
-- KEYS: the name of the logins.
-- ARGV: those that began at this time or before have ended, in milliseconds of Unix time; how many milliseconds that is
-- kept.
local at, life = tonumber(ARGV[1]), tonumber(ARGV[2])
local known = redis.call('GET', KEYS[1])
if known then
  at = math.max(at, tonumber(known) or at)
  life = math.max(life, redis.call('PTTL', KEYS[1]))
end
redis.call('SET', KEYS[1], string.format('%.0f', at), 'PX', string.format('%.0f', life))
return 1
