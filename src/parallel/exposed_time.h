// How long the computation waited for communication that nothing hid, as the device measures it.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <utility>

#include "kernels/backend.h"

namespace lockstep {

// Does not block: waits that the device has not finished yet enter later.
class ExposedTime {
 public:
  explicit ExposedTime(Backend& backend) {
    for (Wait& wait : ring_) wait = {backend.marker(true), backend.marker(true)};
  }

  // Around what is waited for. Where the device is so far behind that no marker is free, nothing is measured.
  void begin() {
    read();
    measuring_ = under_way_ < ring_.size();
    if (measuring_) newest().begin->set();
  }
  void end() {
    if (!measuring_) return;
    newest().end->set();
    ++under_way_;
  }

  // Seconds since the last call.
  double take() {
    read();
    return std::exchange(seconds_, 0.0);
  }

 private:
  // Steps that the device has yet to finish: more than it is ever behind.
  static constexpr size_t kStepsUnderWay = 8;
  struct Wait {
    std::unique_ptr<Marker> begin, end;
  };

  Wait& newest() { return ring_[(first_ + under_way_) % ring_.size()]; }

  // Those that the device is through with.
  void read() {
    for (; under_way_ > 0; --under_way_) {
      const Wait& oldest = ring_[first_];
      if (!oldest.end->passed()) return;
      seconds_ += oldest.end->seconds_since(*oldest.begin);
      first_ = (first_ + 1) % ring_.size();
    }
  }

  std::array<Wait, kStepsUnderWay> ring_;  // used in turn
  size_t first_ = 0, under_way_ = 0;
  bool measuring_ = false;
  double seconds_ = 0.0;
};

}  // namespace lockstep
