-- Counts events by GCRA, as the crate governor does (src/gcra.rs there), with the engine's time.
--
-- KEYS: the limits in the order in which they are asked.
-- ARGV: for each of them five numbers: 1 to count the event or 0 to look only; the interval of one event, in seconds and
-- nanoseconds; how much earlier than its interval an event may come, in seconds and nanoseconds.
-- Returns nothing if all admit the event. Otherwise the number of the first that does not, and how long to wait, in
-- seconds and nanoseconds; the limits after it have counted nothing.
--
-- Times are pairs of seconds and nanoseconds: a number of Lua holds only 53 bits.
local time = redis.call('TIME')
local now = { tonumber(time[1]), tonumber(time[2]) * 1000 }

local function plus(a, b)
  local seconds, nanos = a[1] + b[1], a[2] + b[2]
  if nanos >= 1e9 then return { seconds + 1, nanos - 1e9 } end
  return { seconds, nanos }
end

local function minus(a, b)
  local seconds, nanos = a[1] - b[1], a[2] - b[2]
  if nanos < 0 then return { seconds - 1, nanos + 1e9 } end
  return { seconds, nanos }
end

local function is_before(a, b)
  return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
end

local function earlier(a, b)
  if is_before(b, a) then return b end
  return a
end

for index, key in ipairs(KEYS) do
  local at = (index - 1) * 5
  local counts = ARGV[at + 1] == '1'
  local interval = { tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]) }
  local tolerance = { tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]) }
  local latest = plus(plus(now, tolerance), interval)
  local arrival = now
  local stored = redis.call('GET', key)
  if stored then
    local seconds, nanos = string.match(stored, '^(%d+) (%d+)$')
    -- A clock that was set back must not keep anybody out for longer than the limit itself can.
    if seconds then arrival = earlier({ tonumber(seconds), tonumber(nanos) }, latest) end
  end
  local earliest = minus(arrival, tolerance)
  if is_before(now, earliest) then
    local wait = minus(earliest, now)
    return { index, wait[1], wait[2] }
  end
  if counts then
    if is_before(arrival, now) then arrival = now end
    local next = plus(arrival, interval)
    local life = minus(next, now)
    redis.call('SET', key, string.format('%d %d', next[1], next[2]), 'PX', life[1] * 1000 + math.ceil(life[2] / 1e6))
  end
end
return {}
