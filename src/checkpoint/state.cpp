// The digest of a state, and what scalars have to offer.
#include "lockstep/checkpoint/state.h"

#include <fmt/format.h>

#include <bit>

namespace lockstep {

namespace {

// Feeds values; texts and lists with their length in front, so that no two states feed the same bytes.
void feed(RunningDigest& digest, uint64_t value) {
  digest.add(&value, sizeof value);
}
void feed(RunningDigest& digest, const std::string& text) {
  feed(digest, text.size());
  digest.add(text.data(), text.size());
}
void feed(RunningDigest& digest, const Scalar& scalar) {
  feed(digest, uint64_t{scalar.index()});
  if (const auto* integer = std::get_if<int64_t>(&scalar)) feed(digest, static_cast<uint64_t>(*integer));
  if (const auto* real = std::get_if<double>(&scalar)) feed(digest, std::bit_cast<uint64_t>(*real));
  if (const auto* text = std::get_if<std::string>(&scalar)) feed(digest, *text);
}

}  // namespace

std::span<const std::byte> bytes_of(const StateArray& array, std::vector<std::byte>& room) {
  return array.elsewhere ? array.elsewhere(room) : std::span<const std::byte>(array.bytes);
}

StateDigest::StateDigest(size_t arrays) {
  feed(digest_, arrays);
}

void StateDigest::begin(const StateArray& array) {
  feed(digest_, array.path);
  feed(digest_, static_cast<uint64_t>(array.dtype));
  feed(digest_, static_cast<uint64_t>(array.shape.rank()));
  for (int64_t extent : array.shape.extents()) feed(digest_, static_cast<uint64_t>(extent));
}

void StateDigest::add(std::span<const std::byte> bytes) {
  digest_.add(bytes.data(), bytes.size());
}

std::string StateDigest::end(const std::map<std::string, Scalar>& scalars) {
  feed(digest_, scalars.size());
  for (const auto& [path, scalar] : scalars) {
    feed(digest_, path);
    feed(digest_, scalar);
  }
  return digest_.hex();
}

std::string state_digest(const State& state) {
  StateDigest digest(state.arrays.size());
  for (const StateArray& array : state.arrays) {
    digest.begin(array);
    digest.add(array.bytes);
  }
  return digest.end(state.scalars);
}

std::string content_digest(std::span<const std::span<const std::byte>> pieces) {
  RunningDigest digest;
  for (const std::span<const std::byte> piece : pieces) {
    feed(digest, uint64_t{piece.size()});
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
