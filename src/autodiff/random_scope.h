// Where the random draws of a computation come from: (seed, step, micro-batch) and a count of the ops that drew.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace lockstep {

// Sets the source of draws on this thread for a scope. Re-entering with the same numbers replays the same draws, which is
// what recomputation and resuming rely on.
class RandomScope {
 public:
  RandomScope(uint64_t seed, uint32_t step, uint32_t micro_batch);
  ~RandomScope();
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

 private:
  RandomScope* previous_;
  uint64_t seed_;
  uint32_t step_, micro_batch_, ordinal_ = 0;
  friend RandomStream next_random_stream(RandomPurpose);
};

// The stream of the next op that draws. Error (kInternal) outside of any RandomScope.
RandomStream next_random_stream(RandomPurpose purpose);

}  // namespace lockstep
