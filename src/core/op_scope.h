// What the current thread is computing, by name, so that a failure deep below (no memory left) can say who
// asked.
#pragma once

#include <string>

namespace lockstep {

struct OpUnderWay {
  const char* name = nullptr;  // null outside of any op
  const char* direction = "";  // " (backward)" in a backward sweep
};

inline constinit thread_local OpUnderWay op_under_way;

// For as long as it lives, and within another one. Costs two stores; `name` must outlive it.
class OpScope {
 public:
  explicit OpScope(const char* name, const char* direction = "") : previous_(op_under_way) {
    op_under_way = {name, direction};
  }
  ~OpScope() { op_under_way = previous_; }
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

 private:
  OpUnderWay previous_;
};

// "linear (backward): ", or nothing outside of any op.
inline std::string op_prefix() {
  if (op_under_way.name == nullptr) return {};
  return std::string(op_under_way.name) + op_under_way.direction + ": ";
}

}  // namespace lockstep
