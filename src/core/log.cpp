// Logging through spdlog, which stays out of every other file.
#include "lockstep/core/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace lockstep {

namespace {
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made =
        std::make_shared<spdlog::logger>("lockstep", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%^%v%$");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

// Control bytes that came with a path or a setting would act on the terminal: shown as \x1b instead.
std::string shown(const std::string& message) {
  std::string text;
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += c;
    }
  }
  return text;
}
}  // namespace

void configure_log(int rank, int world_size, bool verbose) {
  logger().set_level(verbose ? spdlog::level::debug : rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger().set_pattern(world_size > 1 && rank != 0 ? fmt::format("%^[rank {}] %v%$", rank) : "%^%v%$");
}

void log_info(const std::string& message) {
  logger().info(shown(message));
}
void log_warning(const std::string& message) {
  logger().warn("warning: " + shown(message));
}
void log_error(const std::string& message) {
  logger().error("error: " + shown(message));
}

}  // namespace lockstep
