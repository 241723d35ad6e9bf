// The prefetching ring between the gathering thread and the training loop.
#include "lockstep/data/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <span>
#include <thread>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/half_precision.h"
#include "lockstep/data/formats.h"

namespace lockstep {

namespace {

// Small steps are gathered ahead up to this much memory and this many steps: the thread then sleeps and wakes
// once for many steps, where a system call for each would cost a noticeable share of a 20-microsecond step.
constexpr int64_t kAheadBytes = 2 * 1024 * 1024;
constexpr int64_t kAheadSteps = 256;

struct Slot {
  StepBatch batch;
  std::exception_ptr error;  // what gathering this step threw
};

// Steps whose rows a disk is asked for before they are gathered.
constexpr int64_t kReadAheadSteps = 4;

}  // namespace

MicroBatch::MicroBatch(int64_t samples, const std::vector<Field>& fields) : size(samples), valid(samples) {
  for (const Field& field : fields)
    arrays.push_back({field, std::vector<std::byte>(static_cast<size_t>(samples * field.bytes()))});
}

SampleBuffers MicroBatch::buffers() {
  SampleBuffers buffers;
  for (Array& array : arrays) buffers.add(array.values.data(), array.field);
  return buffers;
}

const MicroBatch::Array* MicroBatch::find(const std::string& name) const {
  const auto found =
      std::ranges::find_if(arrays, [&](const Array& array) { return array.field.name == name; });
  return found == arrays.end() ? nullptr : &*found;
}

const MicroBatch::Array& MicroBatch::at(const std::string& name) const {
  const Array* array = find(name);
  if (array == nullptr) fail(ErrorKind::kInternal, fmt::format("micro-batch: has no '{}'", name));
  return *array;
}

const MicroBatch::Array& MicroBatch::typed(const std::string& name, DType dtype) const {
  const Array& array = at(name);
  if (const DType own = array.field.dtype; own != dtype) {
    fail(ErrorKind::kInternal,
         fmt::format("micro-batch: '{}' is {}, not {}", name, name_of(own), name_of(dtype)));
  }
  return array;
}

std::vector<float> MicroBatch::real_values(const std::string& name) const {
  const Array& array = at(name);
  std::vector<float> values(array.values.size() / size_of(array.field.dtype));
  widen_features(array.field, array.values.data(), std::ssize(values), values.data());
  return values;
}

std::vector<float> MicroBatch::weights() const {
  const Array* own = find(kWeightsName);
  if (own == nullptr && valid == size) return {};
  const int64_t targets = weights_of(field(kTargetsName)).shape.elements();
  std::vector<float> weights(static_cast<size_t>(size * targets), 0.0f);
  const auto counted = static_cast<std::ptrdiff_t>(valid * targets);
  if (own == nullptr) {
    std::fill_n(weights.begin(), counted, 1.0f);
  } else {
    std::copy_n(values<float>(kWeightsName).begin(), counted, weights.begin());
  }
  return weights;
}

void gather_rows(const DataSource& source, std::span<const int64_t> rows, MicroBatch& batch) {
  const DataDescription& description = source.description();
  call_own(description.source, [&] { source.gather(rows, batch.buffers()); });
  // number: of the value that is refused; each: how many a sample has.
  const auto refuse = [&](size_t number, int64_t each, const std::string& what) {
    const int64_t row = source.whole_row(rows[number / static_cast<size_t>(each)]);
    fail(ErrorKind::kData, fmt::format("{}: sample {}: {}", description.source, row, what));
  };
  const int64_t positions = description.positions.elements();
  if (description.classes > 0) {
    const std::span<const int32_t> labels = std::as_const(batch).values<int32_t>(kTargetsName);
    for (size_t i = 0; i < labels.size(); ++i) {
      if (labels[i] < 0 || labels[i] >= description.classes)
        refuse(i, positions, fmt::format("label {} is outside [0, {})", labels[i], description.classes));
    }
  }
  if (description.weighted) {
    const std::span<const float> weights = std::as_const(batch).values<float>(kWeightsName);
    for (size_t i = 0; i < weights.size(); ++i) {
      if (!(weights[i] >= 0.0f) || weights[i] > std::numeric_limits<float>::max())
        refuse(i, positions, fmt::format("a target weighs {}: weights are numbers, at least 0", weights[i]));
    }
  }
  if (description.finite) return;
  const auto require_finite = [&](const auto& values, int64_t each, const char* what) {
    for (size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<float>(values[i]);
      if (!std::isfinite(value))
        refuse(i, each,
               fmt::format("{} {} is {}: must be finite", what, static_cast<int64_t>(i) % each, value));
    }
  };
  const int64_t features = description.sample_shape.elements();
  if (batch.field(kInputsName).dtype == DType::kF32)
    require_finite(std::as_const(batch).values<float>(kInputsName), features, "input");
  if (batch.field(kInputsName).dtype == DType::kF16)
    require_finite(std::as_const(batch).values<Float16>(kInputsName), features, "input");
  if (description.classes == 0) {
    require_finite(std::as_const(batch).values<float>(kTargetsName), positions * description.target_width,
                   "target");
  }
}

// A ring for one producer and one consumer. Both sides count steps; a step count is written by one side only,
// and its fetch_add is sequentially consistent because the notification after it looks for sleepers.
struct Loader::Impl {
  const DataSource& source;
  Sampler sampler;
  int64_t micro_batch_size;
  int64_t first_step;
  GlobalBatch global;      // the gathering thread's
  GlobalBatch coming;      // of a step ahead of it
  int64_t asked_for = 0;   // steps before this one have been read ahead, or not needed it
  std::vector<Slot> ring;  // the n-th step from the start lies in slot n % size
  // The thread sleeps when the ring is full, until no more than this many slots are taken.
  uint32_t refill_at = 0;
  // Steps gathered and steps given back. They wrap, differences do not; 32 bits because that is what a futex
  // compares.
  std::atomic<uint32_t> gathered{0};
  std::atomic<uint32_t> released{0};
  std::atomic<bool> stop{false};
  int64_t given_back = 0;  // the consumer's `released`, unwrapped
  bool lent = false;       // the consumer holds the slot of step `given_back`
  std::thread thread;

  Impl(const DataSource& data, const SamplerOptions& options, int64_t size, int64_t first_micro_batch,
       int64_t last_micro_batch, int64_t start, int64_t depth)
      : source(data), sampler(options), micro_batch_size(size), first_step(start) {
    if (size < 1 || options.global_batch % size != 0) {
      fail(ErrorKind::kUsage,
           fmt::format("loader: global batch must be a multiple of the micro-batch: {} and {}",
                       options.global_batch, size));
    }
    if (options.overlap % size != 0) {
      fail(ErrorKind::kInternal, fmt::format("loader: an overlap must be whole micro-batches of {}: got {}",
                                             size, options.overlap));
    }
    const int64_t micro_batches = options.global_batch / size;
    if (first_micro_batch < 0 || first_micro_batch >= last_micro_batch || last_micro_batch > micro_batches) {
      fail(ErrorKind::kInternal, fmt::format("loader: micro-batches [{}, {}) are not a range of {}",
                                             first_micro_batch, last_micro_batch, micro_batches));
    }
    if (options.samples != data.size()) {
      fail(ErrorKind::kInternal, fmt::format("loader: sampler draws from {} samples, {} has {}",
                                             options.samples, data.description().source, data.size()));
    }
    if (depth < 1) fail(ErrorKind::kInternal, fmt::format("loader: depth must be at least 1: got {}", depth));

    const std::vector<Field> fields = data.description().fields();
    const int64_t owned = last_micro_batch - first_micro_batch;
    int64_t step_bytes = 0;
    for (const Field& field : fields) step_bytes += owned * size * field.bytes();
    const int64_t ahead =
        std::max(depth, std::min(kAheadSteps, kAheadBytes / std::max<int64_t>(step_bytes, 1)));
    ring.resize(static_cast<size_t>(ahead + 1));  // one more, which the consumer holds
    refill_at = static_cast<uint32_t>(std::max(depth, (ahead + 1) / 2));
    for (Slot& slot : ring) {
      for (int64_t m = 0; m < owned; ++m) {
        slot.batch.micro_batches.emplace_back(size, fields).number = first_micro_batch + m;
      }
    }
    coming.samples.reserve(static_cast<size_t>(owned * size));
    global.samples.reserve(static_cast<size_t>(owned * size));
    thread = std::thread([this] { run(); });
  }

  ~Impl() {
    stop.store(true);
    // A changed count is what the thread waits for; what it counts no longer matters.
    released.fetch_add(1);
    released.notify_one();
    thread.join();
  }

  Slot& slot(int64_t count) { return ring[static_cast<size_t>(count) % ring.size()]; }

  void run() {
    for (int64_t count = 0; !stop.load(std::memory_order_relaxed); ++count) {
      const auto done = static_cast<uint32_t>(count);
      if (done - released.load(std::memory_order_acquire) == ring.size() && !wait_for_room(done)) return;
      Slot& target = slot(count);
      try {
        fill(first_step + count, target.batch);
      } catch (...) {
        target.error = std::current_exception();
      }
      gathered.fetch_add(1);
      gathered.notify_one();
      if (target.error) return;
      if (source.waits()) read_ahead(first_step + count);
    }
  }

  // False: stop.
  bool wait_for_room(uint32_t done) {
    for (;;) {
      const uint32_t seen = released.load();
      if (stop.load()) return false;
      if (done - seen <= refill_at) return true;
      released.wait(seen);
    }
  }

  void fill(int64_t step, StepBatch& batch) {
    const int64_t owned = std::ssize(batch.micro_batches) * micro_batch_size;
    const int64_t start = batch.micro_batches.front().number * micro_batch_size;
    sampler.batch(step, start, owned, global);
    batch.step = step;
    batch.epoch = global.epoch;
    batch.position = global.position;
    batch.valid = global.valid;
    for (MicroBatch& micro : batch.micro_batches) {
      if (stop.load(std::memory_order_relaxed)) return;  // nobody will look at the rest
      const int64_t first = micro.number * micro_batch_size;
      micro.valid = sampler.valid(step, first, micro_batch_size);
      gather_rows(source,
                  std::span(global.samples)
                      .subspan(static_cast<size_t>(first - start), static_cast<size_t>(micro_batch_size)),
                  micro);
    }
  }

  // The rows of steps behind `step`, which has been gathered.
  void read_ahead(int64_t step) {
    const std::vector<MicroBatch>& owned = ring.front().batch.micro_batches;
    const int64_t start = owned.front().number * micro_batch_size;
    asked_for = std::max(asked_for, step + 1);
    for (; asked_for <= step + kReadAheadSteps && !stop.load(std::memory_order_relaxed); ++asked_for) {
      sampler.batch(asked_for, start, std::ssize(owned) * micro_batch_size, coming);
      source.read_ahead(coming.samples);
    }
  }

  // Of the step that next() will give.
  bool ready() {
    const int64_t next = given_back + (lent ? 1 : 0);
    const uint32_t there = gathered.load(std::memory_order_acquire);
    return static_cast<int32_t>(there - static_cast<uint32_t>(next)) > 0 && !slot(next).error;
  }

  const StepBatch& next() {
    if (lent) {
      lent = false;
      ++given_back;
      const uint32_t now = released.fetch_add(1) + 1;
      if (gathered.load(std::memory_order_relaxed) - now <= refill_at) released.notify_one();
    }
    gathered.wait(static_cast<uint32_t>(given_back),
                  std::memory_order_acquire);  // returns at once when one is there
    Slot& ready = slot(given_back);
    if (ready.error) std::rethrow_exception(ready.error);
    lent = true;
    return ready.batch;
  }
};

Loader::Loader(const DataSource& source, const SamplerOptions& sampler, int64_t micro_batch_size,
               int64_t first_micro_batch, int64_t last_micro_batch, int64_t first_step, int64_t depth)
    : impl_(std::make_unique<Impl>(source, sampler, micro_batch_size, first_micro_batch, last_micro_batch,
                                   first_step, depth)) {}

Loader::~Loader() = default;

const StepBatch& Loader::next() {
  return impl_->next();
}

bool Loader::ready() const {
  return impl_->ready();
}

int64_t Loader::steps_per_epoch() const {
  return impl_->sampler.steps_per_epoch();
}

}  // namespace lockstep
