// Lays out the summary of a state as aligned columns.
#include "lockstep/checkpoint/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "lockstep/kernels/plan_table.h"

namespace lockstep {

namespace {

struct Total {
  std::string group;
  int64_t arrays = 0, elements = 0;
  size_t bytes = 0;

  void add(const StateArray& array) {
    ++arrays;
    elements += array.shape.elements();
    bytes += array.bytes.size();
  }
};

}  // namespace

std::string describe_state(const State& state) {
  // Groups in the order in which store order first meets them.
  std::vector<Total> totals;
  Total all{"all"};
  size_t path_width = all.group.size(), shape_width = 0;
  for (const StateArray& array : state.arrays) {
    const std::string group = array.path.substr(0, array.path.rfind('/'));
    auto total = std::ranges::find(totals, group, &Total::group);
    if (total == totals.end()) total = totals.insert(totals.end(), Total{group});
    total->add(array);
    all.add(array);
    path_width = std::max(path_width, array.path.size());
    shape_width = std::max(shape_width, array.shape.to_string().size());
  }
  totals.push_back(all);
  for (const auto& [path, scalar] : state.scalars) path_width = std::max(path_width, path.size());

  std::string text = fmt::format("digest {}\n\nscalars\n", state_digest(state));
  auto out = std::back_inserter(text);
  for (const auto& [path, scalar] : state.scalars) {
    fmt::format_to(out, "  {:<{}}  {}\n", path, path_width, to_text(scalar));
  }
  fmt::format_to(out, "\narrays\n");
  for (const StateArray& array : state.arrays) {
    fmt::format_to(out, "  {:<{}}  {:<6} {:<{}} {:>12} bytes\n", array.path, path_width, name_of(array.dtype),
                   array.shape.to_string(), shape_width, array.bytes.size());
  }
  fmt::format_to(out, "\ntotals\n");
  for (const Total& total : totals) {
    fmt::format_to(out, "  {:<{}}  {:>6} arrays {:>14} elements {:>14} bytes\n", total.group, path_width,
                   total.arrays, total.elements, total.bytes);
  }
  fmt::format_to(out, "\nmetrics: {} lines\n", std::ranges::count(state.metrics, '\n'));
  if (!state.metrics_file.empty())
    fmt::format_to(out, "metrics.jsonl: {} bytes\n",
                   state.metrics_file.substr(0, state.metrics_file.find(' ')));
  for (const auto& [device, plans] : parse_plans(state.plans).value_or(PlansOfDevices())) {
    fmt::format_to(out, "plans: {} of {}\n", plans.size(), device);
  }
  text += "\nconfiguration\n";
  text += state.configuration;
  if (!state.configuration.empty() && !state.configuration.ends_with('\n')) text += '\n';
  return text;
}

}  // namespace lockstep
