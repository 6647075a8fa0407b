-- Marks something as used, once.
--
-- KEYS: all names of the mark, the own one first; behind them the key of the generation, unless ARGV[2] is empty.
-- ARGV: how many milliseconds the mark is kept; the generation that the member knows.
-- Returns 'first', 'used', or 'generation' if the engine has another generation. Then nothing is marked.
local names = #KEYS
if ARGV[2] ~= '' then
  if redis.call('GET', KEYS[names]) ~= ARGV[2] then return 'generation' end
  names = names - 1
end
for index = 1, names do
  if redis.call('EXISTS', KEYS[index]) == 1 then return 'used' end
end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 'first'
