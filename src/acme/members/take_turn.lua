-- Takes the turn to order a certificate, unless another process has it.
--
-- KEYS: the name of the turn under each key of the ring, the one that writes first.
-- ARGV: the token of the process; how long its turn lasts, in milliseconds, or 0 to look only.
-- Returns nothing if the process has the turn, or finds it free. Otherwise what the other process wrote, and for how long that
-- holds, in milliseconds.
for _, key in ipairs(KEYS) do
  local held = redis.call('GETRANGE', key, 0, 63)
  if held ~= '' and string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then
    return { held, tostring(redis.call('PTTL', key)) }
  end
end
if ARGV[2] ~= '0' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return {}
