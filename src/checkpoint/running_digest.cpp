// Feeding XXH3-128.
#include "lockstep/checkpoint/running_digest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace lockstep {

RunningDigest::RunningDigest()
    : state_(XXH3_createState(), [](XXH3_state_s* state) { XXH3_freeState(state); }) {
  if (!state_) throw std::bad_alloc();
  XXH3_128bits_reset(state_.get());
}

void RunningDigest::add(const void* bytes, size_t count) {
  if (count > 0) XXH3_128bits_update(state_.get(), bytes, count);
}

std::string RunningDigest::hex() const {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, XXH3_128bits_digest(state_.get()));
  std::string text;
  for (unsigned char byte : bytes.digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace lockstep
