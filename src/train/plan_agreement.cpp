// Finding the plans of a run on rank 0, and handing them out.
#include "lockstep/train/plan_agreement.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <utility>

#include "lockstep/checkpoint/state.h"
#include "lockstep/core/log.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

namespace {

// A file of plans of any devices, behind a line with the digest of what follows it: an algorithm's bits
// cannot be told from others by looking at them.
class PlanCache {
 public:
  // A directory stands for a file in it. An empty path: no cache.
  explicit PlanCache(const std::string& path) : path_(path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored))
      path_ = (std::filesystem::path(path) / "lockstep.plans").string();
    if (path_.empty() || !std::filesystem::exists(path_, ignored)) return;
    if (std::filesystem::is_regular_file(path_, ignored)) plans_ = read();  // a pipe might never end
    if (!plans_) {
      log_warning(
          fmt::format("LOCKSTEP_PLAN_CACHE: {}: not a cache of plans, or damaged: left alone", path_));
      path_.clear();
    }
  }

  const std::string& path() const { return path_; }
  Plans of(const std::string& device) const {
    if (!plans_) return {};
    const auto found = plans_->find(device);
    return found == plans_->end() ? Plans() : found->second;
  }

  // Replaces the file by one with these plans of the device instead, and what it holds of others by now.
  void store(const std::string& device, Plans plans) {
    if (path_.empty()) return;
    PlansOfDevices all = read().value_or(PlansOfDevices());
    all[device] = std::move(plans);
    const std::string text = plans_text(all);
    const std::string temporary = fmt::format("{}.tmp-{}", path_, ::getpid());
    errno = 0;
    std::ofstream file(temporary, std::ios::binary);
    file << header_of(text) << text;
    file.close();
    if (file && std::rename(temporary.c_str(), path_.c_str()) == 0) return;
    const std::string reason = std::strerror(errno);
    std::remove(temporary.c_str());
    log_warning(fmt::format("LOCKSTEP_PLAN_CACHE: {}: cannot be written: {}", path_, reason));
  }

 private:
  static std::string header_of(const std::string& text) {
    const std::array pieces = {std::as_bytes(std::span(text))};
    return fmt::format("lockstep plans {}\n", content_digest(pieces));
  }

  std::optional<PlansOfDevices> read() const {
    std::ifstream file(path_, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    const size_t header = content.find('\n') + 1;  // 0 where there is none
    const std::string text = content.substr(header);
    if (header == 0 || content.substr(0, header) != header_of(text)) return std::nullopt;
    return parse_plans(text);
  }

  std::string path_;
  std::optional<PlansOfDevices> plans_;
};

// Rank 0's part: fills the table.
void find_plans(PlanTable& table, const PlanSources& sources, const std::function<void()>& rehearse) {
  table.replace({});
  const std::optional<PlansOfDevices> stored = parse_plans(sources.checkpoint);
  if (!stored) log_warning("the checkpoint's plans cannot be read and are not used");
  for (const auto& [device, plans] : stored.value_or(PlansOfDevices())) {
    if (device == table.device()) return table.replace(plans);
    log_info(fmt::format("the checkpoint's plans are of {}, not used on {}", device, table.device()));
  }
  if (!sources.tune) return;
  PlanCache cache(sources.cache);
  const Plans known = cache.of(table.device());
  const auto begin = std::chrono::steady_clock::now();
  table.set_search({.tune = true, .known = known});
  try {
    rehearse();
  } catch (...) {
    table.set_search({});
    throw;
  }
  table.set_search({});
  Plans all = known;
  size_t measured = 0;
  for (const auto& [call, choice] : table.plans()) {
    std::string& before = all[call];
    measured += before != choice ? 1 : 0;
    before = choice;
  }
  const size_t count = table.plans().size();
  log_info(
      fmt::format("{} plans: {} measured in {:.1f} s{}", count, measured,
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
                  cache.path().empty() ? "" : fmt::format(", {} of {}", count - measured, cache.path())));
  if (measured > 0) cache.store(table.device(), std::move(all));
}

}  // namespace

void agree_on_plans(PlanTable* table, Communicator& communicator, const PlanSources& sources,
                    const std::function<void()>& rehearse) {
  const bool leader = communicator.rank() == 0;
  if (table == nullptr) {
    if (leader && sources.tune) log_info("device.tune: there is nothing to tune on the CPU");
    return;
  }
  run_agreed(
      communicator,
      [&] {
        if (leader) find_plans(*table, sources, rehearse);
      },
      "plans");
  std::string text = leader ? plans_of_run(table) : "";
  broadcast_text(communicator, text, "plans");
  Plans plans;
  for (auto& [device, choices] : parse_plans(text).value_or(PlansOfDevices())) plans = std::move(choices);
  table->set_search({});
  table->replace(std::move(plans));
}

std::string plans_of_run(const PlanTable* table) {
  const Plans plans = table == nullptr ? Plans() : table->plans();
  return plans.empty() ? "" : plans_text({{table->device(), plans}});
}

std::string plan_cache_path() {
  const char* path = std::getenv("LOCKSTEP_PLAN_CACHE");
  return path == nullptr ? "" : path;
}

}  // namespace lockstep
