// Reading metrics.jsonl.
#include "lockstep/train/metrics_history.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace lockstep {

void MetricSeries::add(double step, double value) {
  constexpr double kMostDrawn = 1e15;
  if (!(step >= 0.0 && step <= kMostDrawn)) return;
  if (!std::isfinite(value)) {
    if (not_finite_++ == 0) first_not_finite_ = step;
    return;
  }
  if (!groups_.empty() && step <= last_step_) {
    while (!groups_.empty() && groups_.back().first_step >= step) groups_.pop_back();
    if (least_step_ >= step) {
      least_ = std::numeric_limits<double>::infinity();
      for (const Group& group : groups_) {
        const double mean = group.values / static_cast<double>(group.count);
        if (mean < least_) least_step_ = group.first_step;
        least_ = std::min(least_, mean);
      }
    }
  }
  if (groups_.empty() || value < least_) {
    least_ = value;
    least_step_ = step;
  }
  last_step_ = step;
  last_ = value;
  if (!groups_.empty() && groups_.back().count < whole_) {
    Group& group = groups_.back();
    group.steps += step;
    group.values += value;
    ++group.count;
    return;
  }
  if (groups_.size() == kMostGroups) {
    for (size_t i = 0; i < kMostGroups / 2; ++i) {
      const Group &a = groups_[2 * i], &b = groups_[2 * i + 1];
      groups_[i] = {a.first_step, a.steps + b.steps, a.values + b.values, a.count + b.count};
    }
    groups_.resize(kMostGroups / 2);
    whole_ *= 2;
  }
  groups_.push_back({step, step, value, 1});
}

std::vector<std::pair<double, double>> MetricSeries::points() const {
  std::vector<std::pair<double, double>> points;
  points.reserve(groups_.size());
  for (const Group& group : groups_) {
    const auto count = static_cast<double>(group.count);
    points.emplace_back(group.steps / count, group.values / count);
  }
  return points;
}

void MetricsHistory::add(std::string_view text) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) {
      rest_ += text.substr(begin);
      return;
    }
    const std::string_view line = text.substr(begin, end - begin);
    if (rest_.empty()) {
      add_line(line);
    } else {
      rest_ += line;
      add_line(rest_);
      rest_.clear();
    }
    begin = end + 1;
  }
}

void MetricsHistory::add_line(std::string_view line) {
  ++lines_;
  const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
  const auto step = object.is_object() ? object.find("step") : object.end();
  if (step == object.end() || !step->is_number()) {
    ++bad_lines_;
    return;
  }
  const auto number = step->get<double>();
  // A batch in which nothing counts has the mean of nothing for a loss, which is no fault.
  const auto norm = object.find("gradient_norm");
  const bool counts_nothing = norm != object.end() && norm->is_number() && norm->get<double>() == 0.0;
  for (const auto& [key, value] : object.items()) {
    if (key == "step" || !(value.is_number() || (value.is_null() && !counts_nothing))) continue;
    auto series = series_.find(key);
    // A file of another kind must not fill the memory with names.
    constexpr size_t kMostKeys = 1024;
    if (series == series_.end()) {
      if (series_.size() == kMostKeys) continue;
      series = series_.emplace(key, MetricSeries()).first;
    }
    series->second.add(number, value.is_null() ? std::nan("") : value.get<double>());
  }
}

bool MetricsHistory::read(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return false;
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    return false;
  }
  constexpr size_t kLongestLine = size_t{1} << 20;
  std::string buffer(size_t{1} << 16, '\0');
  const auto read_at = [&](int64_t offset, size_t most) {
    for (;;) {
      const ssize_t count = ::pread(descriptor, buffer.data(), most, offset);
      if (count < 0 && errno == EINTR) continue;
      return std::string_view(buffer).substr(0, static_cast<size_t>(std::max<ssize_t>(count, 0)));
    }
  };
  if (read_at(offset_ - std::ssize(newest_), newest_.size()) != newest_) *this = {};
  for (;;) {
    const std::string_view text = read_at(offset_, buffer.size());
    if (text.empty()) break;
    offset_ += std::ssize(text);
    add(text);
    constexpr size_t kRemembered = 256;
    newest_.append(text.substr(text.size() - std::min(text.size(), kRemembered)));
    newest_.erase(0, newest_.size() - std::min(newest_.size(), kRemembered));
    if (rest_.size() > kLongestLine) {  // no line of ours
      ++bad_lines_;
      rest_.clear();
    }
  }
  ::close(descriptor);
  return true;
}

const MetricSeries& MetricsHistory::operator[](const std::string& key) const {
  static const MetricSeries kNone;
  const auto found = series_.find(key);
  return found == series_.end() ? kNone : found->second;
}

}  // namespace lockstep
