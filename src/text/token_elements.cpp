// Copies that widen.
#include "text/token_elements.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "core/error.h"

namespace lockstep {

namespace {

template <class Stored>
void copy(const std::byte* stored, int64_t first, std::span<int32_t> out, const std::string& path) {
  for (size_t i = 0; i < out.size(); ++i) {
    Stored value;
    std::memcpy(&value, stored + i * sizeof value, sizeof value);
    out[i] = static_cast<int32_t>(value);
    if constexpr (sizeof(Stored) >= 4) {
      if (value > static_cast<Stored>(std::numeric_limits<int32_t>::max()))
        fail(ErrorKind::kData, fmt::format("{}: token {} is {}: no vocabulary has it", path,
                                           first + static_cast<int64_t>(i), value));
    }
  }
}

}  // namespace

void copy_tokens(const std::byte* stored, int bytes, int64_t first, std::span<int32_t> out,
                 const std::string& path) {
  switch (bytes) {
    case 1:
      return copy<uint8_t>(stored, first, out, path);
    case 2:
      return copy<uint16_t>(stored, first, out, path);
    case 4:
      return copy<uint32_t>(stored, first, out, path);
    default:
      return copy<uint64_t>(stored, first, out, path);
  }
}

}  // namespace lockstep
