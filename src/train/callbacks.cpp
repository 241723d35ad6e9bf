// Calling a program's functions, and keeping what they throw.
#include "lockstep/train/callbacks.h"

namespace lockstep {

template <class Call>
void Callbacks::call(const Call& call) {
  if (!keeps_) return call();
  if (thrown_) return;
  try {
    call();
  } catch (...) {
    thrown_ = std::current_exception();
  }
}

std::string Callbacks::wants_end() {
  std::string reason;
  if (options_.stop) call([&] { reason = options_.stop(); });
  return thrown_ ? "an exception of the program's" : reason;
}

void Callbacks::step(const StepMetrics& metrics) {
  if (options_.on_step) call([&] { options_.on_step(metrics); });
}

void Callbacks::evaluation(int64_t step, const EvaluationResult& result) {
  if (options_.on_evaluation) call([&] { options_.on_evaluation(step, result); });
}

}  // namespace lockstep
