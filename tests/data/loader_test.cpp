// The loader delivers what the sampler says, in order, whatever the speed of either side, and never hangs.
#include "lockstep/data/loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <new>
#include <set>
#include <thread>

#include "data/rejection.h"

namespace {
std::atomic<int64_t> allocations{0};
}

// Counts what any thread of the process allocates. Not inlined: the compiler warns of mismatched pairs where
// it sees only one body of a pair.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace lockstep {
namespace {

using testing::expect_rejection;

// Row r of width w holds 1000 r + column, its label is r modulo 7.
TableSource table(int64_t n, int64_t width) {
  Dataset data;
  data.source = "made up";
  data.sample_shape = {width};
  data.classes = 7;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < width; ++column)
      data.inputs_f32.push_back(static_cast<float>(1000 * row + column));
    data.labels.push_back(static_cast<int32_t>(row % 7));
  }
  return TableSource(std::move(data));
}

template <class T>
std::vector<T> copy_of(std::span<const T> values) {
  return {values.begin(), values.end()};
}

// The batch of a step, compared with what the sampler says of it; micro-batches [first, last).
void expect_step(const StepBatch& batch, const DataSource& data, Sampler& sampler, int64_t step, int64_t size,
                 int64_t first, int64_t last) {
  const GlobalBatch expected = sampler.batch(step);
  const int64_t width = data.description().sample_shape.elements();
  ASSERT_EQ(batch.step, step);
  ASSERT_EQ(batch.epoch, expected.epoch);
  ASSERT_EQ(batch.position, expected.position);
  ASSERT_EQ(batch.valid, expected.valid);
  ASSERT_EQ(static_cast<int64_t>(batch.micro_batches.size()), last - first);
  for (int64_t m = first; m < last; ++m) {
    const MicroBatch& micro = batch.micro_batches[static_cast<size_t>(m - first)];
    ASSERT_EQ(micro.number, m);
    ASSERT_EQ(micro.size, size);
    const auto inputs = micro.values<float>(kInputsName);
    const auto labels = micro.values<int32_t>(kTargetsName);
    ASSERT_EQ(std::ssize(inputs), size * width);
    ASSERT_EQ(std::ssize(labels), size);
    int64_t valid = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t row = expected.samples[static_cast<size_t>(m * size + i)];
      valid += m * size + i < expected.valid ? 1 : 0;
      ASSERT_EQ(labels[static_cast<size_t>(i)], row % 7);
      for (int64_t column = 0; column < width; ++column) {
        ASSERT_EQ(inputs[static_cast<size_t>(i * width + column)], static_cast<float>(1000 * row + column));
      }
    }
    ASSERT_EQ(micro.valid, valid);
  }
}

TEST(Loader, DeliversTheSamplersRowsToEveryWorker) {
  const TableSource data = table(50, 3);
  const SamplerOptions options{.samples = 50, .global_batch = 12, .seed = 5, .last_batch = LastBatch::kPad};
  for (const auto& [first, last] : std::vector<std::pair<int64_t, int64_t>>{{0, 4}, {0, 1}, {1, 3}, {3, 4}}) {
    Sampler sampler(options);
    Loader loader(data, options, 3, first, last, 0);
    EXPECT_EQ(loader.steps_per_epoch(), 5);
    for (int64_t step = 0; step < 300; ++step)
      expect_step(loader.next(), data, sampler, step, 3, first, last);
  }
}

TEST(Loader, EntersTheOrderAtAnyStep) {
  const TableSource data = table(50, 3);
  const SamplerOptions options{.samples = 50, .global_batch = 12, .seed = 5};
  for (const int64_t start : {1, 4, 5, 1000001}) {
    Sampler sampler(options);
    Loader loader(data, options, 4, 0, 3, start);
    for (int64_t step = start; step < start + 10; ++step)
      expect_step(loader.next(), data, sampler, step, 4, 0, 3);
  }
}

TEST(Loader, GathersTokensAndTargets) {
  Dataset data;
  data.source = "made up";
  data.sample_shape = {2};
  data.input_dtype = DType::kI32;
  data.inputs_i32 = {10, 11, 20, 21, 30, 31};
  data.target_width = 3;
  data.targets = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const TableSource source(data);
  Loader loader(source, {.samples = 3, .global_batch = 4, .shuffle = false, .last_batch = LastBatch::kPad}, 2,
                0, 2, 0);
  const StepBatch& batch = loader.next();
  const MicroBatch &first = batch.micro_batches[0], &second = batch.micro_batches[1];
  EXPECT_EQ(copy_of(first.values<int32_t>(kInputsName)), (std::vector<int32_t>{10, 11, 20, 21}));
  EXPECT_EQ(copy_of(second.values<int32_t>(kInputsName)), (std::vector<int32_t>{30, 31, 10, 11}));
  EXPECT_EQ(copy_of(second.values<float>(kTargetsName)), (std::vector<float>{7, 8, 9, 1, 2, 3}));
  EXPECT_EQ(second.valid, 1);
  EXPECT_EQ(second.weights(), (std::vector<float>{1, 0}));
  EXPECT_TRUE(first.weights().empty());
  expect_rejection(ErrorKind::kInternal, {"'inputs' is int32, not fp32"},
                   [&] { first.values<float>(kInputsName); });
  expect_rejection(ErrorKind::kInternal, {"has no 'documents'"}, [&] { first.values<int32_t>("documents"); });
}

// Texts of three positions: tokens, the tokens that follow them with weights, and the documents that they
// belong to.
class Texts final : public DataSource {
 public:
  // The token at a position is so many further on in the labels, and the t-th position weighs t units.
  explicit Texts(int32_t further = 1, float unit = 0.5f) : further_(further), unit_(unit) {
    description_.source = "texts";
    description_.samples = 5;
    description_.sample_shape = {3};
    description_.input_dtype = DType::kI32;
    description_.classes = 100;
    description_.positions = {3};
    description_.weighted = true;
    description_.others = {{"documents", DType::kI32, {3}}};
  }
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleBuffers place = out.from(static_cast<int64_t>(i));
      for (int32_t t = 0; t < 3; ++t) {
        const auto token = static_cast<int32_t>(10 * rows[i]) + t;
        place.at<int32_t>(DataDescription::kInputs)[t] = token;
        place.at<int32_t>(DataDescription::kTargets)[t] = token + further_;
        place.at<float>(DataDescription::kWeights)[t] = unit_ * static_cast<float>(t);
        place.at<int32_t>(3)[t] = static_cast<int32_t>(rows[i]) / 2;
      }
    }
  }

 private:
  int32_t further_;
  float unit_;
};

TEST(Loader, NamesSourceAndSampleOfTargetsThatCannotBe) {
  const auto first_step = [](const Texts& texts) {
    Loader(texts, {.samples = 5, .global_batch = 5, .shuffle = false}, 5, 0, 1, 0).next();
  };
  first_step(Texts(57));  // the last label is 99
  expect_rejection(ErrorKind::kData, {"texts: sample 4: label 100 is outside [0, 100)"},
                   [&] { first_step(Texts(58)); });
  expect_rejection(ErrorKind::kData, {"texts: sample 0: label -2 is outside [0, 100)"},
                   [&] { first_step(Texts(-2)); });
  expect_rejection(ErrorKind::kData, {"texts: sample 0: a target weighs -1: weights are numbers, at least 0"},
                   [&] { first_step(Texts(1, -1.0f)); });
  for (const float unit : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    expect_rejection(ErrorKind::kData, {"texts: sample 0: a target weighs "},
                     [&] { first_step(Texts(1, unit)); });
  }
}

// Of a program: sample i is (i, i), the value with the number `wrong` is none; targets are alike.
class Measured final : public WholeSource {
 public:
  Measured(int64_t wrong_input, int64_t wrong_target) : input_(wrong_input), target_(wrong_target) {
    description_.source = "measured";
    description_.samples = 4;
    description_.sample_shape = {2};
    description_.target_width = 2;
  }
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleBuffers place = out.from(static_cast<int64_t>(i));
      for (int64_t k = 0; k < 2; ++k) {
        const int64_t number = 2 * rows[i] + k;
        const auto value = static_cast<float>(rows[i]);
        place.at<float>(DataDescription::kInputs)[k] = number == input_ ? std::nanf("") : value;
        place.at<float>(DataDescription::kTargets)[k] =
            number == target_ ? std::numeric_limits<float>::infinity() : value;
      }
    }
  }

 private:
  int64_t input_, target_;
};

TEST(Loader, NamesSourceAndSampleOfNumbersThatAreNone) {
  const auto first_step = [](int64_t wrong_input, int64_t wrong_target) {
    const Measured source(wrong_input, wrong_target);
    Loader(source, {.samples = 4, .global_batch = 4, .shuffle = false}, 4, 0, 1, 0).next();
  };
  first_step(-1, -1);
  expect_rejection(ErrorKind::kData, {"measured: sample 2: input 1 is nan: must be finite"},
                   [&] { first_step(5, -1); });
  expect_rejection(ErrorKind::kData, {"measured: sample 3: target 0 is inf: must be finite"},
                   [&] { first_step(-1, 6); });
}

TEST(Loader, NamesTheSampleAsTheWholeSourceCountsIt) {
  const auto texts = std::make_shared<Texts>(58);  // of which the last one, 4, has a label that is none
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Split split(5, 0.4, seed);
    const PartSource train(texts, split, PartSource::Side::kTrain),
        validation(texts, split, PartSource::Side::kValidation);
    const bool held_out = split.validation_row(1) == 4;
    const PartSource& part = held_out ? validation : train;
    expect_rejection(ErrorKind::kData, {"texts: sample 4: label 100 is outside [0, 100)"}, [&] {
      Loader(part, {.samples = part.size(), .global_batch = part.size(), .shuffle = false}, part.size(), 0, 1,
             0)
          .next();
    });
  }
}

TEST(Loader, GathersATargetAPositionWeightsAndWhateverElseASampleHas) {
  const Texts texts;
  Loader loader(texts, {.samples = 5, .global_batch = 6, .shuffle = false, .last_batch = LastBatch::kPad}, 2,
                1, 3, 0);
  const MicroBatch &first = loader.next().micro_batches[0], &second = (&first)[1];
  EXPECT_EQ(copy_of(first.values<int32_t>(kInputsName)), (std::vector<int32_t>{20, 21, 22, 30, 31, 32}));
  EXPECT_EQ(copy_of(first.values<int32_t>(kTargetsName)), (std::vector<int32_t>{21, 22, 23, 31, 32, 33}));
  EXPECT_EQ(copy_of(first.values<int32_t>("documents")), (std::vector<int32_t>{1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(first.weights(), (std::vector<float>{0, 0.5f, 1, 0, 0.5f, 1}));
  EXPECT_EQ(second.valid, 1);
  EXPECT_EQ(second.weights(), (std::vector<float>{0, 0.5f, 1, 0, 0, 0}));
  // A part of it, in another place.
  const PartSource part(std::shared_ptr<const DataSource>(std::shared_ptr<void>(), &texts), Split(5, 0.4, 1),
                        PartSource::Side::kValidation);
  MicroBatch batch(2, part.description().fields());
  part.gather(std::vector<int64_t>{1, 0}, batch.buffers());
  EXPECT_EQ(batch.values<int32_t>(kInputsName)[3] / 20, batch.values<int32_t>("documents")[3]);
}

// Steps too large to be gathered far ahead, so that the ring is full while the consumer holds its batch.
TEST(Loader, LeavesABatchAloneUntilTheNextCall) {
  const TableSource data = table(64, 4096);
  const SamplerOptions options{.samples = 64, .global_batch = 64, .seed = 5};
  for (const int64_t depth : {1, 2, 3}) {
    Sampler sampler(options);
    Loader loader(data, options, 64, 0, 1, 0, depth);
    for (int64_t step = 0; step < 6; ++step) {
      const StepBatch& batch = loader.next();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      expect_step(batch, data, sampler, step, 64, 0, 1);
    }
  }
}

// Both sides wait for each other again and again; a lost wake-up would hang here.
TEST(Loader, KeepsUpWithAFastAndAnUnsteadyConsumer) {
  const TableSource data = table(40, 2);
  const SamplerOptions options{.samples = 40, .global_batch = 4, .seed = 5};
  Sampler sampler(options);
  Loader loader(data, options, 4, 0, 1, 0);
  for (int64_t step = 0; step < 50000; ++step) {
    const StepBatch& batch = loader.next();
    ASSERT_EQ(batch.step, step);
    if (step % 1000 == 0) {
      expect_step(batch, data, sampler, step, 4, 0, 1);
      if (step % 5000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

TEST(Loader, AllocatesNothingOnceItRuns) {
  const TableSource data = table(512, 64);
  Loader loader(data, {.samples = 512, .global_batch = 32, .seed = 1}, 16, 0, 2, 0);
  for (int64_t step = 0; step < 300; ++step) loader.next();
  const int64_t before = allocations.load();
  int64_t valid = 0;
  for (int64_t step = 0; step < 2000; ++step) valid += loader.next().valid;
  EXPECT_EQ(allocations.load(), before);
  EXPECT_EQ(valid, 2000 * 32);
  // The counter sees the library's allocations too.
  Sampler({.samples = 10, .global_batch = 5}).batch(0);
  EXPECT_GT(allocations.load(), before);
}

// Stands for a file on a disk: what was asked for, and what was gathered without having been.
class DiskSource final : public DataSource {
 public:
  explicit DiskSource(int64_t samples) {
    description_.source = "made up";
    description_.samples = samples;
    description_.sample_shape = {1};
    description_.classes = 2;
  }
  bool waits() const override { return true; }
  void read_ahead(std::span<const int64_t> rows) const override {
    const std::lock_guard lock(mutex_);
    asked_for_.insert(rows.begin(), rows.end());
  }
  void gather(std::span<const int64_t> rows, const SampleBuffers&) const override {
    const std::lock_guard lock(mutex_);
    for (const int64_t row : rows) surprises_ += asked_for_.contains(row) ? 0 : 1;
  }
  int64_t surprises() const {
    const std::lock_guard lock(mutex_);
    return surprises_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::set<int64_t> asked_for_;
  mutable int64_t surprises_ = 0;
};

TEST(Loader, AsksADiskForTheRowsOfComingSteps) {
  const DiskSource source(1000000);
  Loader loader(source, {.samples = 1000000, .global_batch = 32, .seed = 1}, 8, 1, 3, 0);
  for (int64_t step = 0; step < 200; ++step) loader.next();
  EXPECT_EQ(source.surprises(), 16) << "of the first step";
}

TEST(Loader, HandsOnWhatTheThreadThrew) {
  const TableSource data = table(40, 2);
  Loader loader(data, {.samples = 40, .global_batch = 4}, 4, 0, 1, /*first_step=*/-1);
  expect_rejection(ErrorKind::kInternal, {"step", "-1"}, [&] { loader.next(); });
  expect_rejection(ErrorKind::kInternal, {"step", "-1"}, [&] { loader.next(); });
}

TEST(Loader, StopsAtAnyMoment) {
  const TableSource small = table(40, 2);
  const TableSource large = table(64, 4096);
  for (int round = 0; round < 300; ++round) {
    const bool big = round % 3 == 0;
    Loader loader(big ? large : small, {.samples = big ? 64 : 40, .global_batch = 4}, 4, 0, 1, 0,
                  1 + round % 4);
    for (int step = 0; step < round % 7; ++step) loader.next();
    if (round % 10 == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // until the thread sleeps
  }
}

TEST(Loader, RejectsWhatDoesNotFitTogether) {
  const TableSource data = table(40, 2);
  const SamplerOptions options{.samples = 40, .global_batch = 12};
  expect_rejection(ErrorKind::kUsage, {"multiple", "12", "5"}, [&] { Loader(data, options, 5, 0, 1, 0); });
  expect_rejection(ErrorKind::kUsage, {"multiple", "0"}, [&] { Loader(data, options, 0, 0, 1, 0); });
  expect_rejection(ErrorKind::kInternal, {"[2, 4)", "3"}, [&] { Loader(data, options, 4, 2, 4, 0); });
  expect_rejection(ErrorKind::kInternal, {"[1, 1)"}, [&] { Loader(data, options, 4, 1, 1, 0); });
  expect_rejection(ErrorKind::kInternal, {"depth", "0"}, [&] { Loader(data, options, 4, 0, 1, 0, 0); });
  expect_rejection(ErrorKind::kInternal, {"made up", "41", "40"},
                   [&] { Loader(data, {.samples = 41, .global_batch = 12}, 4, 0, 1, 0); });
  expect_rejection(ErrorKind::kUsage, {"64", "40"},
                   [&] { Loader(data, {.samples = 40, .global_batch = 64}, 4, 0, 1, 0); });
}

}  // namespace
}  // namespace lockstep
