// metrics.jsonl: one JSON object a logged step or evaluation, appended as the run goes on. Checkpoints know
// how much of it was there, so that a resumed run goes on behind their step. A file that cannot be written,
// once it is open, is a warning: the lines are not worth the run.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "lockstep/checkpoint/running_digest.h"
#include "lockstep/core/output_file.h"

namespace lockstep {

// Means over the steps since the line before, in seconds a step. On a GPU all but `data` and `host` are the
// device's time. NaN where nobody knows: within a step that is replayed from a recording.
struct StepTimes {
  double data = 0.0;                   // of the host: waiting for the loader, handing samples to the device
  double compute = 0.0;                // forward and backward sweeps; of a replayed step everything
  double exposed_communication = 0.0;  // waiting for other workers that the backward sweep did not hide
  double optimizer = 0.0;              // norm, clipping, update, statistics
  double host = 0.0;  // that the host took to issue the step: all of it where the host computes
};

// What a loss, the mean of -ln p a token, says of text.
struct TextLoss {
  double perplexity = 0.0;     // exp(loss)
  double bits_per_byte = 0.0;  // loss / ln 2 over the bytes of text a token stands for; 0: not known
};

// What a minimizer did in a step.
struct MinimizerStep {
  // How often it asked for the objective: for values alone, with the gradient, for products.
  int64_t values = 0, gradients = 0, products = 0;
  double length = 0.0;      // |theta_after - theta_before|
  double loss_after = 0.0;  // on the step's batch
  // Of line searches "wolfe", "armijo_only" or "failed", which left the parameters as they were; of trust
  // regions and Levenberg-Marquardt "accepted", "rejected" or "failed". "converged": there was nothing to do.
  std::string outcome;
};

struct EvaluationMetrics {
  int64_t step = 0;
  double loss = 0.0;
  std::optional<double> accuracy;  // of classification
  int64_t samples = 0;
  std::string weights;  // "averaged", or "" where there are only the trained ones
  std::optional<TextLoss> text;
};

// "step 40: validation loss 0.2500, accuracy 93.10% on 360 samples".
std::string in_words(const EvaluationMetrics& metrics);

struct StepMetrics {
  int64_t step = 0;  // steps done
  double epoch = 0.0;
  double loss =
      0.0;  // of the step's global batch, regularization included; NaN, null in the file: nothing counts
  double learning_rate = 0.0;
  double gradient_norm = 0.0;  // before clipping
  double loss_scale = 1.0;     // of this step
  int64_t skipped_steps = 0;   // so far
  double samples_per_second = 0.0;
  // Of text; none of these where samples are something else.
  int64_t tokens = 0;  // seen in all steps
  double tokens_per_second = 0.0;
  double mfu = 0.0;  // share of the devices' peak (train/model_operations.h); 0: not known
  std::optional<MinimizerStep> minimizer = {};
  StepTimes times;
  // Of several workers the one that its own part of the steps took longest, and how many times as long as the
  // others (median); -1: not known.
  int slowest_rank = -1;
  double slowest_factor = 0.0;
  uint64_t peak_bytes = 0;    // of tensors on this worker since the start
  uint64_t cached_bytes = 0;  // kept for tensors to come, at the moment
  // The most that the forward and backward sweep of a micro-batch held at once, over what was there before
  // it.
  uint64_t activation_bytes = 0;
};

// What a checkpoint knows of the file. `file`: "BYTES DIGEST", the beginning of the file at that time, and
// XXH3-128 of it; empty: `lines` are all there were. `lines`: those that found no room in the file.
struct MetricsRecord {
  std::string lines, file;
};

class MetricsLog {
 public:
  // Of a run that begins (no record), or goes on from `step`: what the file holds behind the record goes.
  // Where it is not the file that the record speaks of, or there is none, that is a warning, and its lines up
  // to `step` stay. Error (kUsage) when the file cannot be opened. That it cannot be written, here and below,
  // is said once; what is missing is written as soon as there is room.
  explicit MetricsLog(std::string path, const MetricsRecord& record = {}, int64_t step = 0);
  ~MetricsLog();  // writes what is left, if it can
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void step(const StepMetrics& metrics);
  void evaluation(const EvaluationMetrics& metrics);
  void digest(int64_t step, const std::string& digest);
  // Everything so far to the file, if it can be.
  void flush();
  // What a checkpoint should know now. Flushes.
  MetricsRecord record();
  const std::string& path() const { return path_; }
  int64_t bytes() const { return written_; }       // of the file
  bool whole() const { return waiting_.empty(); }  // since flush(): all lines are in it

  // Lines that find no room wait in memory, the newest of them: no more bytes than this.
  static constexpr size_t kMostWaiting = size_t{8} << 20;

 private:
  void append(const std::string& line);
  // Bytes of the file that are the record's; -1 where it is another file.
  int64_t matching_bytes(const std::string& record);
  // Bytes of the whole lines at the beginning of the file that tell of steps up to this one.
  int64_t bytes_until(int64_t step) const;
  std::string path_;
  std::string waiting_;   // not in the file yet
  int64_t written_ = 0;   // bytes of the file
  RunningDigest digest_;  // of these
  OutputFile file_;
  bool warned_ = false;
  std::chrono::steady_clock::time_point last_flush_;
};

}  // namespace lockstep
