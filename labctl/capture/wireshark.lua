-- Shows what labctl writes beside each frame (docs/inspect.md) as columns and filters of Wireshark.
-- wireshark -X lua_script:FILE, or FILE in its folder of personal plugins. Other tools' files show
-- as much as their flags tell. Columns: labctl.hop, labctl.state, labctl.metadata, labctl.packet.
local labctl = Proto("labctl", "labctl")
local hop = ProtoField.string("labctl.hop", "Hop")
local state = ProtoField.string("labctl.state", "Checksum state")
local metadata = ProtoField.string("labctl.metadata", "Checksum metadata")
local gso = ProtoField.string("labctl.gso", "Segmentation left to do")
local packet = ProtoField.string("labctl.packet", "Packet, the same at each hop")
labctl.fields = { hop, state, metadata, gso, packet }

local interface_name = Field.new("frame.interface_name")
local comment = Field.new("frame.comment")
local flags = Field.new("frame.packet_flags")
local packet_id = Field.new("frame.packet_id")
local states = { valid = true, partial = true, bad = true, absent = true, unknown = true }

function labctl.dissector(_, _, tree)
  local name, words, bits, number = interface_name(), comment(), flags(), packet_id()
  if not (words or bits) then return end
  local branch = tree:add(labctl)
  if name then branch:add(hop, tostring(name.value)) end
  if number then branch:add(packet, tostring(number.value)) end
  local known, left = "none", nil
  if bits then
    local value = bits.value
    if bit.band(value, 0x200) ~= 0 then known = "needs_csum"
    elseif bit.band(value, 0x400) ~= 0 then known = "data_valid" end
    if bit.band(value, 0x800) ~= 0 then left = "tcp" end
  end
  if words then
    local said = (tostring(words.value):match("^[^:]+: ([^-]*)") or "")
    for word in said:gmatch("[^,]+") do
      word = word:match("^%s*(.-)%s*$")
      if states[word] then branch:add(state, word) end
      if word == "needs_csum" or word == "data_valid" then known = word end
      left = word:match("^gso (.+)$") or left
    end
  end
  branch:add(metadata, known)
  if left then branch:add(gso, left) end
end

register_postdissector(labctl, true)
