// Logging through spdlog, which stays out of every other file.
#include "core/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace lockstep {

namespace {
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("lockstep", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%^%v%$");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}
}  // namespace

void configure_log(int rank, int world_size, bool verbose) {
  logger().set_level(verbose ? spdlog::level::debug : rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger().set_pattern(world_size > 1 && rank != 0 ? fmt::format("%^[rank {}] %v%$", rank) : "%^%v%$");
}

void log_info(const std::string& message) { logger().info(message); }
void log_warning(const std::string& message) { logger().warn("warning: " + message); }
void log_error(const std::string& message) { logger().error("error: " + message); }

}  // namespace lockstep
