// What a run is: everything a checkpoint holds, as named arrays and scalars in host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "lockstep/checkpoint/running_digest.h"
#include "lockstep/core/dtype.h"
#include "lockstep/core/shape.h"

namespace lockstep {

// Of the file. 3: metrics.jsonl is named (State::metrics_file); earlier files hold all of its lines. 2: the
// order of samples and the rows held out for validation are computed (data/permutation.h, data/split.h), and
// /data/digest is a digest of digests of blocks. 1: shuffled arrays, one digest.
inline constexpr int64_t kCheckpointVersion = 3;

struct StateArray {
  // "/parameters/layers.0.weight", "/optimizer/first_moment/layers.0.weight", "/statistics/..."
  std::string path;
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<std::byte> bytes;
  // Of what somebody else holds: gives it, in `room` or where it is. Empty: it is in `bytes`.
  std::function<std::span<const std::byte>(std::vector<std::byte>& room)> elsewhere = {};
};

using Scalar = std::variant<int64_t, double, std::string>;

struct State {
  std::vector<StateArray> arrays;  // in store order
  // By path: "/rng/seed", "/data/step", "/schedule/type", "/loss_scale/scale" ...
  std::map<std::string, Scalar> scalars;
  std::string configuration;             // TOML text
  std::string metrics;                   // JSON lines logged so far that are not in metrics_file
  int64_t version = kCheckpointVersion;  // of the file that it was read from
  std::string data;          // TOML text: what a model has to know of the data; empty in older files
  std::string metrics_file;  // "BYTES DIGEST" of metrics.jsonl so far; empty: `metrics` has all lines
  std::string best;          // which evaluation was the best (train/best_checkpoint.h); empty: not asked for
  std::string pending;       // what is still to be done at this step: "evaluation"; empty: nothing
  std::string begun;  // when the run began, milliseconds since 1970: which run it is; empty in older files
  std::string plans;  // which algorithms compute what on a GPU (kernels/plan_table.h); empty: as proposed
};

// What the array holds, wherever that is; valid as long as both.
std::span<const std::byte> bytes_of(const StateArray& array, std::vector<std::byte>& room);

// 32 hex digits: XXH3-128 over parameters, statistics, optimizer slots (paths, dtypes, shapes, bytes; store
// order) and the scalars (sorted by path), excluding configuration, metrics, data, best, pending, begun and
// plans.
std::string state_digest(const State& state);

// The same of a state whose arrays come one after the other, and each in pieces: begin() it, add() its bytes.
class StateDigest {
 public:
  explicit StateDigest(size_t arrays);
  void begin(const StateArray& array);  // its own bytes are not looked at
  void add(std::span<const std::byte> bytes);
  // After the last array.
  std::string end(const std::map<std::string, Scalar>& scalars);

 private:
  RunningDigest digest_;
};

// 32 hex digits: XXH3-128 of the pieces, one behind the other, with their lengths.
std::string content_digest(std::span<const std::span<const std::byte>> pieces);

// The same value: for floating-point numbers, the same bits.
bool same_scalar(const Scalar& a, const Scalar& b);

// "7", "0.25", "\"adam\"": every digit that distinguishes the value.
std::string to_text(const Scalar& scalar);

}  // namespace lockstep
