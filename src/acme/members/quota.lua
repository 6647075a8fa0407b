-- Counts an order against a quota by GCRA, as src/acme/demand.rs does for a member that is alone, with the engine's time.
--
-- KEYS: the quota.
-- ARGV: the interval of one order; how many orders the quota has room for at once.
-- Returns 1 if there was room, else 0. Times are in microseconds, which a number of Lua holds for 285 years.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1e6 + tonumber(time[2])
local interval = tonumber(ARGV[1])
local latest = now + interval * tonumber(ARGV[2])
-- A clock that was set back delays orders by no more than the quota itself would.
local before = math.min(math.max(tonumber(redis.call('GET', KEYS[1])) or now, now), latest)
local next = before + interval
if next > latest then return 0 end
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000))
return 1
