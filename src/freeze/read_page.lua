-- Reads some fields of the table.
--
-- KEYS: the table.
-- ARGV: where to go on; how many fields; the longest field and value.
-- Returns where to go on next, 0 at the end; then fields and values. What is too long comes as an empty text.
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local texts = { page[1] }
for _, text in ipairs(page[2]) do
  if #text > tonumber(ARGV[3]) then text = '' end
  texts[#texts + 1] = text
end
return texts
