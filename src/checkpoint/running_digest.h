// XXH3-128 of bytes that come piece by piece.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

struct XXH3_state_s;

namespace lockstep {

class RunningDigest {
 public:
  RunningDigest();
  void add(const void* bytes, size_t count);
  // 32 hex digits, of all so far.
  std::string hex() const;

 private:
  std::unique_ptr<XXH3_state_s, void (*)(XXH3_state_s*)> state_;
};

}  // namespace lockstep
