-- places: the places of a claim that are still held, see free_stamp.
-- needs: base
local band, shift = bit.band, bit.lshift

-- The words of a text. `struct` returns the next position too.
local function words_of(open)
  local words = { struct.unpack('<' .. string.rep('i4', math.floor(#open / 4)), open) }
  words[#words] = nil
  return words
end

local function is_held_at(words, spot) return band(words[math.floor(spot / 32) + 1] or 0, shift(1, spot % 32)) ~= 0 end

local function leave_at(words, spot)
  local w = math.floor(spot / 32) + 1
  words[w] = band(words[w], bit.bnot(shift(1, spot % 32)))
end

-- Writes the words of a claim. A claim of which nothing is held is removed.
local function put_places(hold, stamp, words)
  for w = 1, #words do
    if words[w] ~= 0 then
      call('HSET', hold, stamp .. ':open', struct.pack('<' .. string.rep('i4', #words), unpack(words)))
      return
    end
  end
  call('HDEL', hold, stamp, stamp .. ':open')
end
