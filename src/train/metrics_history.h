// What a metrics.jsonl tells, as series of numbers that take no more room than a picture can show: for the
// loss plot, and for commands that look at runs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep {

// A number over steps. A long series is kept as the means of neighbours: 2,048 groups or more of it.
class MetricSeries {
 public:
  static constexpr size_t kMostGroups = 4096;

  // A step that is not behind the last one takes the place of what was told of it and of those after it: a
  // run that went on from an earlier step. What is not finite is counted, and is no point. Steps are from 0
  // to 1e15.
  void add(double step, double value);

  // (step, value), means of groups.
  std::vector<std::pair<double, double>> points() const;
  bool empty() const { return groups_.empty(); }
  double last_step() const { return last_step_; }
  double last() const { return last_; }  // value
  double least() const { return least_; }
  double least_step() const { return least_step_; }
  int64_t not_finite() const { return not_finite_; }
  double first_not_finite() const { return first_not_finite_; }  // step

 private:
  struct Group {
    double first_step, steps, values;  // sums
    int64_t count;
  };
  std::vector<Group> groups_;
  int64_t whole_ = 1;  // values of a full group
  double last_step_ = 0.0, last_ = 0.0, least_ = 0.0, least_step_ = 0.0, first_not_finite_ = 0.0;
  int64_t not_finite_ = 0;
};

class MetricsHistory {
 public:
  // Whole lines of text, each a JSON object with "step"; others are counted and passed over. A line that
  // goes on is waited for.
  void add(std::string_view text);
  // Reads what has come to the file since the last call; one that no longer holds what was read last, of a
  // run that was begun anew or cut to its checkpoint, is read anew. False: it cannot be read.
  bool read(const std::string& path);

  // Empty where no line has the key.
  const MetricSeries& operator[](const std::string& key) const;
  int64_t lines() const { return lines_; }
  int64_t bad_lines() const { return bad_lines_; }

 private:
  void add_line(std::string_view line);

  std::map<std::string, MetricSeries, std::less<>> series_;
  std::string rest_;    // a line that has not ended yet
  std::string newest_;  // the last bytes before offset_
  int64_t lines_ = 0, bad_lines_ = 0, offset_ = 0;
};

}  // namespace lockstep
