// Contexts for a forward pass, and the check that models of real-valued data share.
#include "nn/module.h"

#include <fmt/format.h>

#include "autodiff/derivatives.h"

namespace lockstep {

ForwardContext forward_context(const ParameterStore& store, bool training) {
  ForwardContext context;
  context.training = training;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    const int index = static_cast<int>(i);
    context.parameters.push_back(training ? variable(store.parameter(index), index) : store.parameter(index));
  }
  for (size_t i = 0; i < store.statistics().size(); ++i) {
    context.statistics.push_back(store.statistic(static_cast<int>(i)));
  }
  context.batch_statistics.resize(store.statistics().size());
  return context;
}

void require_real_inputs(const Section& model, const DataShape& data) {
  if (!is_floating(data.input)) {
    model.reject(
        "type", fmt::format("takes real numbers, the data are table indices ({}): use \"sequential\" with an "
                            "embedding layer first",
                            name_of(data.input)));
  }
}

}  // namespace lockstep
