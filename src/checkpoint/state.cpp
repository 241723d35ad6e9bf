// The digest of a state, and what scalars have to offer.
#include "lockstep/checkpoint/state.h"

#include <fmt/format.h>

#include <bit>

#include "lockstep/checkpoint/running_digest.h"

namespace lockstep {

namespace {

// Feeds values; texts and lists with their length in front, so that no two states feed the same bytes.
class StateDigest : public RunningDigest {
 public:
  using RunningDigest::add;
  void add(uint64_t value) { add(&value, sizeof value); }
  void add(const std::string& text) {
    add(text.size());
    add(text.data(), text.size());
  }
  void add(const Scalar& scalar) {
    add(uint64_t{scalar.index()});
    if (const auto* integer = std::get_if<int64_t>(&scalar)) add(static_cast<uint64_t>(*integer));
    if (const auto* real = std::get_if<double>(&scalar)) add(std::bit_cast<uint64_t>(*real));
    if (const auto* text = std::get_if<std::string>(&scalar)) add(*text);
  }
};

}  // namespace

std::string state_digest(const State& state) {
  StateDigest digest;
  digest.add(state.arrays.size());
  for (const StateArray& array : state.arrays) {
    digest.add(array.path);
    digest.add(static_cast<uint64_t>(array.dtype));
    digest.add(static_cast<uint64_t>(array.shape.rank()));
    for (int64_t extent : array.shape.extents()) digest.add(static_cast<uint64_t>(extent));
    digest.add(array.bytes.data(), array.bytes.size());
  }
  digest.add(state.scalars.size());
  for (const auto& [path, scalar] : state.scalars) {
    digest.add(path);
    digest.add(scalar);
  }
  return digest.hex();
}

std::string content_digest(std::span<const std::span<const std::byte>> pieces) {
  StateDigest digest;
  for (const std::span<const std::byte> piece : pieces) {
    digest.add(uint64_t{piece.size()});
    digest.add(piece.data(), piece.size());
  }
  return digest.hex();
}

bool same_scalar(const Scalar& a, const Scalar& b) {
  const double *real_a = std::get_if<double>(&a), *real_b = std::get_if<double>(&b);
  if (real_a != nullptr && real_b != nullptr) {
    return std::bit_cast<uint64_t>(*real_a) == std::bit_cast<uint64_t>(*real_b);
  }
  return a == b;
}

std::string to_text(const Scalar& scalar) {
  if (const auto* integer = std::get_if<int64_t>(&scalar)) return fmt::format("{}", *integer);
  if (const auto* real = std::get_if<double>(&scalar)) return fmt::format("{}", *real);
  return fmt::format("\"{}\"", std::get<std::string>(scalar));
}

}  // namespace lockstep
