// The current source of random draws of a thread.
#include "lockstep/autodiff/random_scope.h"

#include "lockstep/core/error.h"

namespace lockstep {

namespace {
thread_local RandomScope* current = nullptr;
}

RandomScope::RandomScope(const RandomPlace& start) : previous_(current), next_(start) {
  current = this;
}

RandomScope::~RandomScope() {
  current = previous_;
}

RandomStream next_random_stream(RandomPurpose purpose) {
  if (current == nullptr) fail(ErrorKind::kUsage, "random draw outside of any RandomScope");
  RandomStream stream;
  stream.key = philox_key(current->next_.seed, purpose);
  stream.op_ordinal = current->next_.ordinal++;
  stream.step = current->next_.step;
  stream.step_at = current->next_.step_at;
  stream.stream = current->next_.micro_batch;
  return stream;
}

std::optional<RandomPlace> random_place() {
  if (current == nullptr) return std::nullopt;
  return current->next_;
}

}  // namespace lockstep
