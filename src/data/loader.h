// Micro-batches in host memory, gathered ahead of time by a background thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/data/data_source.h"
#include "lockstep/data/sampler.h"

namespace lockstep {

// One micro-batch: micro_batch_size samples, rows copied out of the data set, for each field one behind the
// other.
struct MicroBatch {
  int64_t number = 0;  // its number in the global batch
  int64_t size = 0;    // micro_batch_size
  int64_t valid = 0;   // samples that count; the rest is padding at the end
  struct Array {
    Field field;
    std::vector<std::byte> values;
    // Of the field's own type.
    template <class T>
    std::span<const T> as() const {
      return {reinterpret_cast<const T*>(values.data()), values.size() / sizeof(T)};
    }
  };
  std::vector<Array> arrays;

  MicroBatch() = default;
  // Of `samples` samples, all of which count; values are zero.
  MicroBatch(int64_t samples, const std::vector<Field>& fields);
  SampleBuffers buffers();
  bool has(const std::string& name) const { return find(name) != nullptr; }
  // Errors (kInternal), here and below: there is no such field, of this type.
  const Field& field(const std::string& name) const { return at(name).field; }
  std::span<const std::byte> bytes(const std::string& name) const { return at(name).values; }
  template <class T>
  std::span<const T> values(const std::string& name) const {
    return typed(name, dtype_of<T>).template as<T>();
  }
  template <class T>
  std::span<T> values(const std::string& name) {
    const std::span<const T> found = std::as_const(*this).values<T>(name);
    return {const_cast<T*>(found.data()), found.size()};
  }
  // Real numbers as a model gets them.
  std::vector<float> real_values(const std::string& name) const;
  // What each target of the batch counts: its own weight, 0 for padding. Empty where each counts 1.
  std::vector<float> weights() const;

 private:
  const Array* find(const std::string& name) const;
  const Array& at(const std::string& name) const;
  const Array& typed(const std::string& name, DType dtype) const;
};

// What the source gives of these rows, as many as the batch has room for. Error (kData) naming source and
// sample for a label outside of the classes and for a weight that is negative or no number: a program's own
// source may give anything.
void gather_rows(const DataSource& source, std::span<const int64_t> rows, MicroBatch& batch);

struct StepBatch {
  int64_t step = 0, epoch = 0, position = 0;
  int64_t valid = 0;                      // of the whole global batch
  std::vector<MicroBatch> micro_batches;  // those that this worker owns
};

// Gathers the worker's micro-batches of consecutive steps in a background thread, at least `depth` steps
// ahead: small steps are gathered further ahead (a fixed amount of memory), so that short training steps
// rarely have to wake the thread. After construction nothing is allocated.
class Loader {
 public:
  // The micro-batches [first_micro_batch, last_micro_batch) of the global batches from first_step on. The
  // source must outlive the loader. Where it waits for a disk, the rows of coming steps are asked for ahead.
  // Errors: kUsage as Sampler, and when global_batch is no multiple of micro_batch_size; kInternal when the
  // range or the number of samples does not fit.
  Loader(const DataSource& source, const SamplerOptions& sampler, int64_t micro_batch_size,
         int64_t first_micro_batch, int64_t last_micro_batch, int64_t first_step, int64_t depth = 2);
  ~Loader();
  // The batch of the next step, in order. Rethrows what the background thread threw. The reference stays
  // valid until the following call; buffers are reused.
  const StepBatch& next();
  // Whether next() would return at once, and not throw.
  bool ready() const;
  int64_t steps_per_epoch() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
