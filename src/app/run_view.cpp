// Reading a run's directory.
#include "lockstep/app/run_view.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <filesystem>

#include "lockstep/checkpoint/store.h"
#include "lockstep/comm/deadline.h"
#include "lockstep/core/error.h"
#include "lockstep/core/printable.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/train/worker_texts.h"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

std::string small_file(const std::string& path) {
  constexpr size_t kMostBytes = size_t{1} << 20;
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return "";  // of a pipe the end may never come
  try {
    return read_small_file(path, kMostBytes, ErrorKind::kUsage);
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

RunView RunView::open(const std::string& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error))
    fail(ErrorKind::kUsage, directory + ": there is no such directory");
  RunView view;
  view.directory = directory;
  view.update();
  if (view.status.empty() && view.metrics.lines() == 0 && view.checkpoints.empty() &&
      view.configuration.empty())
    fail(ErrorKind::kUsage, directory + ": holds no run: no status.json, metrics.jsonl or checkpoint");
  return view;
}

void RunView::update() {
  const std::string path = directory + "/status.json";
  try {
    status = parse_json_object(path, small_file(path), ErrorKind::kUsage);
  } catch (const Error&) {
    // Damaged, or not there: what is known stays.
  }
  metrics.read(directory + "/metrics.jsonl");
  checkpoints = checkpoint_steps(directory);
  configuration = small_file(directory + "/configuration.toml");
}

std::string RunView::name() const {
  const std::string named = text("name");
  if (!named.empty()) return named;
  const fs::path path = fs::path(directory).lexically_normal();
  return printable((path.has_filename() ? path : path.parent_path()).filename().string());
}

std::optional<double> RunView::number(const char* key) const {
  const auto found = status.find(key);
  if (found == status.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

std::string RunView::text(const char* key) const {
  const auto found = status.find(key);
  return found != status.end() && found->is_string() ? printable(found->get<std::string>()) : "";
}

std::string RunView::state() const {
  const std::string state = text("state");
  const double pid = number("pid").value_or(0.0);
  const bool here = text("host") == host_name() && pid >= 1.0 && pid < 1e9;
  if (!state.empty() && state != "ended" && here && ::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH)
    return "died";
  return state;
}

std::string describe_exit(int code) {
  switch (code) {
    case 0:
      return "done";
    case 2:
      return "exit code 2, usage";
    case 3:
      return "exit code 3, data";
    case 4:
      return "exit code 4, checkpoint";
    case 5:
      return "exit code 5, diverged";
    case 6:
      return "exit code 6, communication";
    case kExitStopped:
      return "stopped and saved; continue with --resume";
    default:
      return fmt::format("exit code {}", code);
  }
}

}  // namespace lockstep
