-- Takes a value out, so that it is found once.
--
-- KEYS: all names of the value.
-- Returns it, or nothing.
for _, name in ipairs(KEYS) do
  local value = redis.call('GET', name)
  if value then
    redis.call('DEL', name)
    return value
  end
end
return false
