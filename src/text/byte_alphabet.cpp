// Both directions of the alphabet.
#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace lockstep {

namespace {

struct Alphabet {
  std::array<char32_t, 256> letter{};
  std::array<int, 0x144> byte{};

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      letter[b] = itself ? b : next++;
      byte[letter[b]] = static_cast<int>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet kAlphabet;
  return kAlphabet;
}

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  std::string letters;
  for (const char byte : bytes)
    append_code_point(letters, alphabet().letter[static_cast<unsigned char>(byte)]);
  return letters;
}

std::optional<std::string> from_byte_alphabet(std::string_view letters) {
  std::string bytes;
  for (size_t at = 0; at < letters.size();) {
    const char32_t letter = next_code_point(letters, at);
    if (letter >= alphabet().byte.size() || alphabet().byte[letter] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet().byte[letter]));
  }
  return bytes;
}

}  // namespace lockstep
