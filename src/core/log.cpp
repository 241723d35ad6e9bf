// The sink of messages, and the one that writes to stderr through spdlog, which stays out of every other
// file.
#include "lockstep/core/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <utility>

namespace lockstep {

namespace {

struct Log {
  std::mutex mutex;
  LogSink sink;
};

// Never destroyed: threads may have something to say until the process ends.
Log& instance() {
  static Log* const log = new Log;
  return *log;
}

void say(LogLevel level, const std::string& message) {
  const std::lock_guard lock(instance().mutex);
  if (instance().sink) instance().sink(level, message);
}

// Control bytes that came with a path or a setting would act on the terminal: shown as \x1b instead.
// Messages are one line each, which the first word tells apart.
std::string without_control_bytes(const std::string& message) {
  std::string text;
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\t') || byte == 0x7f) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace

void set_log(LogSink sink) {
  const std::lock_guard lock(instance().mutex);
  instance().sink = std::move(sink);
}

void log_to_stderr(int rank, int world_size, bool verbose) {
  const auto logger =
      std::make_shared<spdlog::logger>("lockstep", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern(world_size > 1 && rank != 0 ? fmt::format("%^[rank {}] %v%$", rank) : "%^%v%$");
  logger->flush_on(spdlog::level::info);
  const bool all = verbose || rank == 0;
  set_log([logger, all](LogLevel level, const std::string& message) {
    if (level == LogLevel::kError) {
      logger->error("error: " + without_control_bytes(message));
    } else if (level == LogLevel::kWarning) {
      logger->warn("warning: " + without_control_bytes(message));
    } else if (all) {
      logger->info(without_control_bytes(message));
    }
  });
}

void log_info(const std::string& message) {
  say(LogLevel::kInfo, message);
}
void log_warning(const std::string& message) {
  say(LogLevel::kWarning, message);
}
void log_error(const std::string& message) {
  say(LogLevel::kError, message);
}

}  // namespace lockstep
