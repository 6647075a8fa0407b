-- Ends the turn of a process. A turn that another one has by now is left alone.
--
-- KEYS: the name of the turn under each key of the ring, the one that writes first.
-- ARGV: the token of the process; how many orders have failed, or 0 if none did; how long no member orders after that, in
-- milliseconds.
local is_own = false
for _, key in ipairs(KEYS) do
  if string.sub(redis.call('GETRANGE', key, 0, 63), 1, #ARGV[1]) == ARGV[1] then
    redis.call('DEL', key)
    is_own = true
  end
end
if is_own and ARGV[2] ~= '0' then redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3]) end
return 1
