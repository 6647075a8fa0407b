-- Reads some fields of the table.
--
-- KEYS: the table.
-- ARGV: the longest value; the names of the fields.
-- Returns for each field that there is its name, its value, and the SHA-1 of that. A value that is too long is left out.
local found = {}
for at = 2, #ARGV do
  local held = redis.call('HGET', KEYS[1], ARGV[at])
  if held then
    found[#found + 1] = ARGV[at]
    found[#found + 1] = #held <= tonumber(ARGV[1]) and held or ''
    found[#found + 1] = redis.sha1hex(held)
  end
end
return found
