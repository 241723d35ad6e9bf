// The current source of random draws of a thread.
#include "autodiff/random_scope.h"

#include "core/error.h"

namespace lockstep {

namespace {
thread_local RandomScope* current = nullptr;
}

RandomScope::RandomScope(uint64_t seed, uint32_t step, uint32_t micro_batch)
    : previous_(current), seed_(seed), step_(step), micro_batch_(micro_batch) {
  current = this;
}

RandomScope::~RandomScope() { current = previous_; }

RandomStream next_random_stream(RandomPurpose purpose) {
  if (current == nullptr) fail(ErrorKind::kInternal, "random draw outside of any RandomScope");
  RandomStream stream;
  stream.key = philox_key(current->seed_, purpose);
  stream.op_ordinal = current->ordinal_++;
  stream.step = current->step_;
  stream.stream = current->micro_batch_;
  return stream;
}

}  // namespace lockstep
