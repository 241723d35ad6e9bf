// watch: what it shows of a run, and when it shows it again.
#include "lockstep/app/watch_command.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <sstream>
#include <thread>
#include <vector>

#include "lockstep/app/results.h"
#include "lockstep/core/printable.h"
#include "lockstep/text/utf8.h"
#include "lockstep/train/loss_plot.h"
#include "lockstep/train/progress.h"

namespace lockstep {

namespace {

using Clock = std::chrono::steady_clock;

struct WatchArguments {
  std::string directory;
  bool once = false;
};

// What of well-formed text `columns` columns of a terminal have room for.
std::string cut(const std::string& line, int columns) {
  int taken = 0;
  for (size_t at = 0; at < line.size();) {
    const size_t begin = at;
    taken += columns_of(next_code_point(line, at));
    if (taken > columns) return line.substr(0, begin);
  }
  return line;
}

std::string rate_text(const RunView& run) {
  const auto rate = [](double value, const char* unit) { return fmt::format("{:.4g} {}/s", value, unit); };
  std::string text;
  if (const auto tokens = run.number("tokens_per_second"))
    text = rate(*tokens, "tokens");
  else if (const auto samples = run.number("samples_per_second"))
    text = rate(*samples, "samples");
  else if (const MetricSeries& series = run.metrics["samples_per_second"]; !series.empty())
    text = rate(series.last(), "samples");
  if (const auto mfu = run.number("mfu")) text += fmt::format("  MFU {:.1f}%", 100.0 * *mfu);
  return text;
}

// "data 2%  compute 91% ...", of the newest line of the metrics.
std::string split_text(const RunView& run) {
  const std::pair<const char*, const char*> parts[] = {{"data", "data_seconds"},
                                                       {"compute", "compute_seconds"},
                                                       {"communication", "exposed_communication_seconds"},
                                                       {"optimizer", "optimizer_seconds"}};
  double all = 0.0;
  for (const auto& [name, key] : parts) all += run.metrics[key].empty() ? 0.0 : run.metrics[key].last();
  std::string text;
  for (const auto& [name, key] : parts) {
    if (all > 0.0 && !run.metrics[key].empty())
      text +=
          fmt::format("{}{} {:.0f}%", text.empty() ? "" : "  ", name, 100.0 * run.metrics[key].last() / all);
  }
  return text;
}

std::string loss_text(const RunView& run) {
  const MetricSeries &loss = run.metrics["loss"], &validation = run.metrics["validation_loss"];
  std::vector<std::string> parts;
  if (!loss.empty()) parts.push_back(fmt::format("loss {:.4g}", loss.last()));
  if (!validation.empty()) {
    parts.push_back(fmt::format("validation {:.4g} (least {:.4g} at step {:.0f})", validation.last(),
                                validation.least(), validation.least_step()));
  }
  for (const auto& [name, key] :
       {std::pair("accuracy", "validation_accuracy"), {"lr", "learning_rate"}, {"|g|", "gradient_norm"}}) {
    if (!run.metrics[key].empty()) parts.push_back(fmt::format("{} {:.3g}", name, run.metrics[key].last()));
  }
  return fmt::format("{}", fmt::join(parts, "  "));
}

std::string trouble_text(const RunView& run, const std::string& state, double silence) {
  constexpr double kQuiet = 10.0, kSlow = 60.0;
  if (state.empty() || state == "ended") return "";
  if (state == "died")
    return fmt::format("no heartbeat for {:.0f} s: process {:.0f} is gone; continue with --resume", silence,
                       run.number("pid").value_or(0.0));
  if (silence > kQuiet)
    return fmt::format("no heartbeat for {:.0f} s: process {:.0f} on {} hangs, or died with its host",
                       silence, run.number("pid").value_or(0.0), run.text("host"));
  const double still = run.number("time").value_or(0.0) - run.number("step_time").value_or(0.0);
  if (state == "training" && still > kSlow) return fmt::format("no step for {:.0f} s", still);
  return "";
}

}  // namespace

std::string watch_frame(const RunView& run, int columns, int rows, double silence) {
  const std::string state = run.state();
  std::vector<std::string> lines;
  std::string head = run.name() + "  ";
  if (state == "ended") {
    const auto code = run.number("exit_code");
    head += "ended: ";
    head += code ? describe_exit(static_cast<int>(std::clamp(*code, -1e6, 1e6))) : "nobody said how";
  } else {
    head += state.empty() ? "no status.json" : state;
  }
  head += "  " + printable(run.directory);
  lines.push_back(head);
  if (const std::string message = run.text("message"); !message.empty()) lines.push_back(message);
  if (const std::string trouble = trouble_text(run, state, silence); !trouble.empty())
    lines.push_back(trouble);

  const double step = run.number("step").value_or(run.metrics["loss"].last_step());
  std::string where = fmt::format("step {:.0f}", step);
  if (const double total = run.number("total_steps").value_or(0.0); total > 0.0)
    where += fmt::format("/{:.0f} ({:.1f}%)", total, 100.0 * step / total);
  if (const MetricSeries& epoch = run.metrics["epoch"]; !epoch.empty())
    where += fmt::format("  epoch {:.2f}", epoch.last());
  if (const auto eta = run.number("eta_seconds"); eta && state != "ended" && state != "died")
    where += "  ETA " + format_duration(*eta);
  lines.push_back(where);
  for (const std::string& line : {loss_text(run), rate_text(run), split_text(run)}) {
    if (!line.empty()) lines.push_back(line);
  }
  if (run.metrics["loss"].not_finite() > 0) {
    lines.push_back(fmt::format("{} losses are not finite, from step {:.0f} on",
                                run.metrics["loss"].not_finite(), run.metrics["loss"].first_not_finite()));
  }
  if (const double skipped = run.number("skipped_steps").value_or(0.0); skipped > 0.0)
    lines.push_back(fmt::format("skipped steps {:.0f}", skipped));
  if (const MetricSeries& factor = run.metrics["slowest_factor"]; !factor.empty()) {
    lines.push_back(fmt::format("slowest worker: rank {:.0f}, {:.2f} times the others",
                                run.metrics["slowest_rank"].last(), factor.last()));
  }
  std::string kept;
  if (const auto workers = run.number("workers")) kept = fmt::format("workers {:.0f}", *workers);
  if (const auto hosts = run.status.find("hosts"); hosts != run.status.end() && hosts->is_array()) {
    std::vector<std::string> names;
    for (const auto& host : *hosts) {
      if (host.is_string()) names.push_back(printable(host.get<std::string>()));
    }
    if (!names.empty()) kept += fmt::format(" on {}", fmt::join(names, ", "));
  }
  kept += kept.empty() ? "" : "  ";
  kept += run.checkpoints.empty() ? "no checkpoint"
                                  : fmt::format("checkpoint of step {} ({} kept)", run.checkpoints.front(),
                                                run.checkpoints.size());
  lines.push_back(kept);

  // The labels of the chart take 11 columns, its axis two rows.
  const int width = std::min(columns - 12, 120),
            height = std::min(rows - static_cast<int>(lines.size()) - 2, 16);
  if (width >= 8 && height >= 2) {
    std::istringstream chart(loss_chart(loss_curves(run.metrics), width, height));
    for (std::string line; std::getline(chart, line);) lines.push_back(line);
  }
  std::string frame;
  for (size_t i = 0; i < lines.size() && static_cast<int>(i) < rows; ++i)
    frame += cut(lines[i], columns) + '\n';
  return frame;
}

namespace {

int run_watch(const WatchArguments& arguments) {
  RunView run = RunView::open(arguments.directory);
  const bool live = !arguments.once && ::isatty(STDOUT_FILENO) == 1;
  // Clocks of hosts differ: from the second heartbeat on this one's tells how old the last is.
  std::optional<Clock::time_point> heard;
  for (double newest = run.number("time").value_or(0.0);; run.update()) {
    const double time = run.number("time").value_or(0.0);
    if (time != newest) heard = Clock::now();
    newest = time;
    const double now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    const double silence =
        heard ? std::chrono::duration<double>(Clock::now() - *heard).count() : std::max(0.0, now - time);
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
    const std::string frame =
        watch_frame(run, known ? size.ws_col : 120, known ? size.ws_row - 1 : 24, silence);
    if (!live) {
      std::fputs(frame.c_str(), stdout);
      flush_results();
      return 0;
    }
    // From the top left corner; each line to its end, and what is below.
    std::string shown = "\033[H";
    for (const char c : frame) shown += c == '\n' ? std::string("\033[K\n") : std::string(1, c);
    std::fputs((shown + "\033[J").c_str(), stdout);
    flush_results();
    if (run.state() == "ended") return 0;
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

}  // namespace

std::function<std::optional<int>()> add_watch_command(CLI::App& app) {
  const auto arguments = std::make_shared<WatchArguments>();
  CLI::App* command = app.add_subcommand("watch", "show a run as it goes on: loss curve, rates, checkpoints");
  command->add_option("directory", arguments->directory, "output directory of the run")->required();
  command->add_flag("--once", arguments->once, "print what there is now, and no more; so does a pipe");
  command->footer("Example:\n  lockstep watch runs/cnn");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_watch(*arguments);
    return std::nullopt;
  };
}

}  // namespace lockstep
