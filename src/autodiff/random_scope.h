// Where the random draws of a computation come from: (seed, step, micro-batch) and a count of the ops that
// drew.
#pragma once

#include <cstdint>
#include <optional>

#include "lockstep/kernels/backend.h"

namespace lockstep {

// A place in the draws of a scope: the next op that draws is number `ordinal`.
struct RandomPlace {
  uint64_t seed = 0;
  uint32_t step = 0, micro_batch = 0, ordinal = 0;
  const uint32_t* step_at = nullptr;  // RandomStream::step_at
};

// Sets the source of draws on this thread for a scope. Re-entering with the same numbers replays the same
// draws, which is what recomputation and resuming rely on.
class RandomScope {
 public:
  RandomScope(uint64_t seed, uint32_t step, uint32_t micro_batch)
      : RandomScope(RandomPlace{seed, step, micro_batch, 0}) {}
  explicit RandomScope(const RandomPlace& start);
  ~RandomScope();
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

 private:
  RandomScope* previous_;
  RandomPlace next_;
  friend RandomStream next_random_stream(RandomPurpose);
  friend std::optional<RandomPlace> random_place();
};

// The stream of the next op that draws. Error (kUsage) outside of any RandomScope.
RandomStream next_random_stream(RandomPurpose purpose);

// Where the current scope stands; none outside of any.
std::optional<RandomPlace> random_place();

}  // namespace lockstep
