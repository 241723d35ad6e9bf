// The choices that libraries of a device leave open: which of several algorithms computes a product of one
// shape.
//
// Candidates for one call may differ in the last bits of what they compute, so workers of one run have to
// choose alike, and a run that goes on later has to choose as before. A library's own first proposal is the
// same everywhere on one model of device with one version of the library. What was chosen otherwise, by
// measurement, stands here: as text, so that it can be sent, stored and compared.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace lockstep {

// Choices by the call that they are for, neither with a tab or a line break in it, in order of the calls:
// "matmul bf16->bf16 nt+bias 1x256x128x64 align 16,16,16,16" -> "0a00...". What they mean is between the code
// that made and that uses them.
using Plans = std::map<std::string, std::string>;

// The choices of one device, for all its queues. Any thread may use it.
class PlanTable {
 public:
  // Where the table holds no choice for a call.
  struct Search {
    bool tune = false;  // time the candidates, and insert the fastest
    int candidate = 0;  // otherwise the candidate of this number, or the first where there are not as many
    Plans known = {};   // choices of before: find() takes them into the table, those that are asked for
  };

  // device: what the choices depend on besides the call: model and library versions, "NVIDIA H100 80GB HBM3,
  // cuBLASLt 130200"; in one line.
  explicit PlanTable(std::string device);
  PlanTable(const PlanTable&) = delete;
  PlanTable& operator=(const PlanTable&) = delete;

  const std::string& device() const { return device_; }

  Search search() const;
  void set_search(Search search);

  std::optional<std::string> find(const std::string& call);
  // Keeps the choice that is there already, if any. Returns the one that the table holds now.
  std::string insert(const std::string& call, const std::string& choice);
  // Of a choice that cannot be used: it is known no longer, either.
  void erase(const std::string& call);

  Plans plans() const;
  // From now on the table holds these alone.
  void replace(Plans plans);

  // Another number after each call of replace and set_search: who keeps what was made of a choice has to look
  // again.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  const std::string device_;
  mutable std::mutex mutex_;
  Search search_;
  Plans plans_;
  std::atomic<uint64_t> generation_ = 0;
};

// The earliest candidate but where a later one is faster by more than `margin` of its time: the order of
// candidates is the library's own expectation, and a difference within the margin is chance. seconds: of each
// candidate, in that order; infinite where it cannot be used. Returns its number, 0 if there is none.
size_t fastest(const double* seconds, size_t candidates, double margin = 0.01);

// Plans of several devices as text, in order: a line "[device]" for each, then a line a plan: call, tab,
// choice.
using PlansOfDevices = std::map<std::string, Plans>;
std::string plans_text(const PlansOfDevices& plans);
// The plans in such a text, or nothing when it is none: the empty text has none.
std::optional<PlansOfDevices> parse_plans(const std::string& text);

}  // namespace lockstep
