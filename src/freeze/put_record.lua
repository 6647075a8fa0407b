-- Writes a freeze or a thaw, unless the table holds a newer one for the target, and tells all members.
--
-- KEYS: the table.
-- ARGV: the version; the highest version that may be replaced; the value, which begins with the version; the channel; the
-- message; the life of the table in milliseconds; the most fields; the longest value; the names of the target's field, the one
-- to write first.
-- Returns 'stored'; or 'full'; or 'newer', the value that stays (nothing if it is too long), its field and its SHA-1.
local function version_of(value)
  return tonumber(string.match(value, '^(%d+) ')) or 0
end

local version, replaceable = tonumber(ARGV[1]), tonumber(ARGV[2])
local renames = false
for at = 9, #ARGV do
  local held = redis.call('HGET', KEYS[1], ARGV[at])
  if held and at > 9 and version == replaceable and version_of(held) == version then
    -- The same order under an older name, which gets the new one.
    renames = true
  elseif held and (version_of(held) >= version or version_of(held) > replaceable) then
    return { 'newer', #held <= tonumber(ARGV[8]) and held or '', ARGV[at], redis.sha1hex(held) }
  end
end
local is_new = redis.call('HEXISTS', KEYS[1], ARGV[9]) == 0 and not renames
if is_new and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[7]) then return { 'full' } end
redis.call('HSET', KEYS[1], ARGV[9], ARGV[3])
for at = 10, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return { 'stored' }
