-- Reads what members wrote under the keys of the ring.
--
-- KEYS: the name under each key of the ring.
-- ARGV: the longest value that is read, in bytes; a longer one is none of callgate's.
-- Returns a text for each, which is empty where there is none.
local found = {}
for index, key in ipairs(KEYS) do
  local length = redis.call('STRLEN', key)
  found[index] = length > 0 and length <= tonumber(ARGV[1]) and redis.call('GET', key) or ''
end
return found
