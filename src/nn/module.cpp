// Contexts for a forward pass, and the check that models of real-valued data share.
#include "lockstep/nn/module.h"

#include <fmt/format.h>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/core/error.h"
#include "lockstep/nn/refused_option.h"

namespace lockstep {

ForwardContext forward_context(const ParameterStore& store, bool training) {
  ForwardContext context;
  context.training = training;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    const int index = static_cast<int>(i);
    context.parameters.push_back(variable(store.parameter(index), index));
  }
  for (size_t i = 0; i < store.statistics().size(); ++i) {
    context.statistics.push_back(store.statistic(static_cast<int>(i)));
  }
  context.batch_statistics.resize(store.statistics().size());
  for (size_t i = 0; i < store.frozen().size(); ++i) context.frozen.push_back(store.frozen_values(i));
  return context;
}

std::vector<Tensor> take_batch_statistics(ForwardContext& context, const ParameterStore& store) {
  std::vector<Tensor> taken(store.statistics().size());
  taken.swap(context.batch_statistics);
  for (size_t i = 0; i < store.statistics().size(); ++i) {
    const StatisticEntry& entry = store.statistics()[i];
    const auto refuse = [&](const std::string& what) {
      fail(ErrorKind::kUsage, fmt::format("{}: the forward pass in training left {}", entry.name, what));
    };
    if (i >= taken.size() || !taken[i].defined()) refuse("no statistic of this name");
    if (!(taken[i].shape() == entry.shape) || taken[i].dtype() != store.dtype()) {
      refuse(fmt::format("{} {}, not {} {}", taken[i].shape().to_string(), name_of(taken[i].dtype()),
                         entry.shape.to_string(), name_of(store.dtype())));
    }
  }
  return taken;
}

void require_real_inputs(const char* model, const DataShape& data) {
  if (!is_floating(data.input)) {
    throw RefusedOption(model, "type",
                        fmt::format("takes real numbers, the data are table indices ({}): use \"sequential\" "
                                    "with an embedding layer first",
                                    name_of(data.input)));
  }
}

}  // namespace lockstep
