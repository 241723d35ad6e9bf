// The letters in which GPT-2's files write bytes: printable ones of Latin-1 as themselves, the other 68 as
// U+0100 and following.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lockstep {

std::string to_byte_alphabet(std::string_view bytes);
// nullopt: a letter that is not of the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view letters);

}  // namespace lockstep
