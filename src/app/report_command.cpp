// report: the page and its parts.
#include "lockstep/app/report_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/printable.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/train/configuration_changes.h"
#include "lockstep/train/line_plot.h"

namespace lockstep {

namespace {

constexpr const char* kFirstLine = "<!DOCTYPE html><!-- lockstep report -->";

struct ReportArguments {
  std::vector<std::string> directories;
  std::string output;
};

// Of a run by its place; those of more than eight runs are used again.
std::string colour_of(size_t run) {
  constexpr std::array<const char*, 8> kColours = {"#1f6fb4", "#d1600a", "#2a8a3a", "#b5203a",
                                                   "#7a4fb0", "#8a5a3a", "#c44f9c", "#5f6b76"};
  return kColours[run % kColours.size()];
}

std::string label_of(const std::vector<RunView>& runs, size_t run) {
  return fmt::format("<span style=\"color:{}\">{} {}</span>", colour_of(run), run + 1,
                     xml_text(runs[run].name()));
}

std::string row_of(const std::string& head, const std::vector<std::string>& cells) {
  std::string row = "<tr><th>" + head + "</th>";
  for (const std::string& cell : cells) row += "<td>" + cell + "</td>";
  return row + "</tr>\n";
}

std::string state_text(const RunView& run) {
  const std::string state = run.state();
  const auto code = run.number("exit_code");
  if (state == "ended" && code) return describe_exit(static_cast<int>(std::clamp(*code, -1e6, 1e6)));
  return state.empty() ? "not known" : state;
}

std::string final_figures(const std::vector<RunView>& runs) {
  using Figure = std::pair<const char*, std::function<std::string(const RunView&)>>;
  const auto last = [](const char* key, const char* format) {
    return [=](const RunView& run) {
      const MetricSeries& series = run.metrics[key];
      return series.empty() ? std::string() : fmt::format(fmt::runtime(format), series.last());
    };
  };
  const Figure figures[] = {
      {"directory", [](const RunView& run) { return xml_text(run.directory); }},
      {"state", [](const RunView& run) { return xml_text(state_text(run)); }},
      {"what went wrong", [](const RunView& run) { return xml_text(run.text("message")); }},
      {"steps",
       [](const RunView& run) {
         const double step = run.number("step").value_or(run.metrics["loss"].last_step());
         const double total = run.number("total_steps").value_or(0.0);
         return total > 0.0 ? fmt::format("{:.0f} of {:.0f}", step, total) : fmt::format("{:.0f}", step);
       }},
      {"loss", last("loss", "{:.6g}")},
      {"validation loss", last("validation_loss", "{:.6g}")},
      {"least validation loss",
       [](const RunView& run) {
         const MetricSeries& series = run.metrics["validation_loss"];
         return series.empty() ? ""
                               : fmt::format("{:.6g} at step {:.0f}", series.least(), series.least_step());
       }},
      {"validation accuracy", last("validation_accuracy", "{:.4f}")},
      {"bits a byte", last("validation_bits_per_byte", "{:.4f}")},
      {"epochs", last("epoch", "{:.3g}")},
      {"tokens", last("tokens", "{:.4g}")},
      {"samples a second", last("samples_per_second", "{:.4g}")},
      {"tokens a second", last("tokens_per_second", "{:.4g}")},
      {"MFU", last("mfu", "{:.3f}")},
      {"skipped steps", last("skipped_steps", "{:.0f}")},
      {"losses that are not finite",
       [](const RunView& run) {
         const MetricSeries& loss = run.metrics["loss"];
         return loss.not_finite() == 0
                    ? ""
                    : fmt::format("{}, from step {:.0f} on", loss.not_finite(), loss.first_not_finite());
       }},
      {"lines of the metrics that cannot be read",
       [](const RunView& run) {
         return run.metrics.bad_lines() == 0 ? "" : fmt::format("{}", run.metrics.bad_lines());
       }},
      {"workers",
       [](const RunView& run) {
         const auto workers = run.number("workers");
         return workers ? fmt::format("{:.0f}", *workers) : "";
       }},
  };
  std::string table = "<table>\n<tr><th></th>";
  for (size_t run = 0; run < runs.size(); ++run) table += "<th>" + label_of(runs, run) + "</th>";
  table += "</tr>\n";
  for (const auto& [name, text] : figures) {
    std::vector<std::string> cells;
    cells.reserve(runs.size());
    for (const RunView& run : runs) cells.push_back(text(run));
    // What nobody has to tell is left out.
    if (std::ranges::any_of(cells, [](const std::string& cell) { return !cell.empty(); }))
      table += row_of(name, cells);
  }
  return table + "</table>\n";
}

// A picture of a series of all runs; "" where none has it.
std::string curves_of(const std::vector<RunView>& runs, const char* key, const char* title, bool dots) {
  std::vector<PlotCurve> curves;
  for (size_t run = 0; run < runs.size(); ++run) {
    if (const MetricSeries& series = runs[run].metrics[key]; !series.empty())
      curves.push_back({"", colour_of(run), series.points(), dots});
  }
  return curves.empty() ? "" : "<div>" + line_plot(title, curves, false) + "</div>\n";
}

// What of a step's time goes where, the mean over the run: a bar a run.
std::string time_split(const std::vector<RunView>& runs) {
  struct Part {
    const char *key, *name, *colour;
  };
  constexpr std::array<Part, 4> kParts = {{{"data_seconds", "data", "#d1a00a"},
                                           {"compute_seconds", "compute", "#1f6fb4"},
                                           {"exposed_communication_seconds", "communication", "#b5203a"},
                                           {"optimizer_seconds", "optimizer", "#2a8a3a"}}};
  std::string table;
  for (size_t run = 0; run < runs.size(); ++run) {
    std::array<double, kParts.size()> means{};
    double all = 0.0;
    for (size_t part = 0; part < kParts.size(); ++part) {
      const PlotPoints points = runs[run].metrics[kParts[part].key].points();
      for (const auto& [step, value] : points)
        means[part] += std::max(value, 0.0) / static_cast<double>(points.size());
      all += means[part];
    }
    if (!(all > 0.0)) continue;
    std::string bar = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"400\" height=\"16\">", text;
    double at = 0.0;
    for (size_t part = 0; part < kParts.size(); ++part) {
      const double share = means[part] / all;
      bar += fmt::format("<rect x=\"{:.1f}\" width=\"{:.1f}\" height=\"16\" fill=\"{}\"/>", 400.0 * at,
                         400.0 * share, kParts[part].colour);
      at += share;
      text += fmt::format("<span style=\"color:{}\">{} {:.1f}%</span> ", kParts[part].colour,
                          kParts[part].name, 100.0 * share);
    }
    table += row_of(label_of(runs, run), {bar + "</svg>", text, fmt::format("{:.4g} s a step", all)});
  }
  return table.empty() ? "" : "<h2>Time of a step</h2>\n<table>\n" + table + "</table>\n";
}

std::string configuration_table(const std::vector<RunView>& runs) {
  std::vector<std::map<std::string, std::string>> settings;
  std::set<std::string> keys;
  for (const RunView& run : runs) {
    settings.push_back(settings_of(run.configuration));
    for (const auto& [key, value] : settings.back()) keys.insert(key);
  }
  keys.erase("run.output");
  std::string rows;
  for (const std::string& key : keys) {
    std::vector<std::string> cells;
    for (const auto& of_run : settings) {
      const auto found = of_run.find(key);
      cells.push_back(found == of_run.end() ? "not set" : xml_text(found->second));
    }
    if (std::ranges::any_of(cells, [&](const std::string& cell) { return cell != cells.front(); }))
      rows += row_of(xml_text(key), cells);
  }
  if (runs.size() < 2) return "";
  if (rows.empty()) return "<h2>Configuration</h2>\n<p>All the same.</p>\n";
  std::string head = "<tr><th></th>";
  for (size_t run = 0; run < runs.size(); ++run) head += "<th>" + label_of(runs, run) + "</th>";
  return "<h2>Configuration, where it differs</h2>\n<table>\n" + head + "</tr>\n" + rows + "</table>\n";
}

int run_report(const ReportArguments& arguments) {
  require_replaceable(arguments.output, "is no report", [&] {
    constexpr size_t kMostBytes = size_t{1} << 28;
    return read_small_file(arguments.output, kMostBytes, ErrorKind::kUsage).starts_with(kFirstLine);
  });
  std::vector<RunView> runs;
  for (const std::string& directory : arguments.directories) runs.push_back(RunView::open(directory));
  replace_file(arguments.output, report_page(runs), ErrorKind::kUsage);
  log_info(fmt::format("{}: {} run{}", arguments.output, runs.size(), runs.size() == 1 ? "" : "s"));
  return 0;
}

}  // namespace

std::string report_page(const std::vector<RunView>& runs) {
  std::string page = kFirstLine;
  page +=
      "\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>Lockstep: runs</title>\n<style>"
      "body{font-family:sans-serif;margin:2em;color:#222} table{border-collapse:collapse;margin:1em 0} "
      "th,td{border:1px solid #ccc;padding:3px 8px;text-align:left;vertical-align:top} "
      "div{display:inline-block;margin:0 1em 1em 0} "
      "svg{max-width:100%}</style></head>\n<body>\n<h1>Runs</h1>\n";
  page += final_figures(runs);
  page += "<h2>Curves</h2>\n";
  page += curves_of(runs, "loss", "training loss", false);
  page += curves_of(runs, "validation_loss", "validation loss", true);
  page += curves_of(runs, "validation_accuracy", "validation accuracy", true);
  page += curves_of(runs, "learning_rate", "learning rate", false);
  page += curves_of(runs, "gradient_norm", "gradient norm", false);
  page += curves_of(runs, "samples_per_second", "samples a second", false);
  page += time_split(runs);
  page += configuration_table(runs);
  return page + "</body></html>\n";
}

std::function<std::optional<int>()> add_report_command(CLI::App& app) {
  const auto arguments = std::make_shared<ReportArguments>();
  CLI::App* command =
      app.add_subcommand("report", "compare runs on one HTML page: curves, figures, configurations");
  command->add_option("directories", arguments->directories, "output directories of runs")->required();
  command->add_option("--output", arguments->output, "HTML file to write; an earlier report is replaced")
      ->required();
  command->footer("Example:\n  lockstep report runs/a runs/b --output report.html");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_report(*arguments);
    return std::nullopt;
  };
}

}  // namespace lockstep
