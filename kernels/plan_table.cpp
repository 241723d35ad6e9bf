// Keeping choices, and their text.
#include "lockstep/kernels/plan_table.h"

#include <sstream>
#include <utility>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

void require_line(const std::string& text) {
  if (!text.empty() && text.find_first_of("\t\n") == std::string::npos) return;
  fail(ErrorKind::kInternal, "plans: must be a text without tabs and line breaks: \"" + text + "\"");
}

}  // namespace

PlanTable::PlanTable(std::string device) : device_(std::move(device)) {
  require_line(device_);
}

PlanTable::Search PlanTable::search() const {
  const std::lock_guard lock(mutex_);
  return search_;
}

void PlanTable::set_search(Search search) {
  const std::lock_guard lock(mutex_);
  search_ = std::move(search);
  ++generation_;
}

std::optional<std::string> PlanTable::find(const std::string& call) {
  const std::lock_guard lock(mutex_);
  auto found = plans_.find(call);
  const auto known = search_.known.find(call);
  if (found == plans_.end() && known != search_.known.end()) found = plans_.insert(*known).first;
  if (found == plans_.end()) return std::nullopt;
  return found->second;
}

std::string PlanTable::insert(const std::string& call, const std::string& choice) {
  require_line(call);
  require_line(choice);
  if (call.starts_with('[')) fail(ErrorKind::kInternal, "plans: a call must not begin with [: " + call);
  const std::lock_guard lock(mutex_);
  return plans_.emplace(call, choice).first->second;
}

void PlanTable::erase(const std::string& call) {
  const std::lock_guard lock(mutex_);
  plans_.erase(call);
  search_.known.erase(call);
}

Plans PlanTable::plans() const {
  const std::lock_guard lock(mutex_);
  return plans_;
}

void PlanTable::replace(Plans plans) {
  const std::lock_guard lock(mutex_);
  plans_ = std::move(plans);
  ++generation_;
}

size_t fastest(const double* seconds, size_t candidates, double margin) {
  size_t best = 0;
  for (size_t i = 1; i < candidates; ++i) {
    if (seconds[i] < seconds[best] * (1.0 - margin)) best = i;
  }
  return best;
}

std::string plans_text(const PlansOfDevices& plans) {
  std::string text;
  for (const auto& [device, choices] : plans) {
    text += "[" + device + "]\n";
    for (const auto& [call, choice] : choices) text.append(call).append("\t").append(choice).append("\n");
  }
  return text;
}

std::optional<PlansOfDevices> parse_plans(const std::string& text) {
  PlansOfDevices plans;
  if (text.empty()) return plans;
  if (text.back() != '\n') return std::nullopt;  // cut off
  Plans* choices = nullptr;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('[') && line.ends_with(']') && line.size() > 2) {
      choices = &plans[line.substr(1, line.size() - 2)];
      continue;
    }
    const size_t tab = line.find('\t');
    if (choices == nullptr || tab == std::string::npos || tab == 0 || tab + 1 == line.size() ||
        line.find('\t', tab + 1) != std::string::npos ||
        !choices->emplace(line.substr(0, tab), line.substr(tab + 1)).second) {
      return std::nullopt;
    }
  }
  return plans;
}

}  // namespace lockstep
