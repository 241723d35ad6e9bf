// Samples on their way to the device: they arrive as they were, in time, at places that do not move, and no
// step sees those of another.
#include "lockstep/train/input_queue.h"

#include <gtest/gtest.h>

#include <bit>
#include <functional>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/train/objective.h"

namespace lockstep {
namespace {

constexpr int64_t kMicroBatches = 3, kSize = 4, kWidth = 5;
const DataShape kClasses{{kWidth}, DType::kF32, 7};
const DataShape kTargets{{kWidth}, DType::kF32, 0, 2};
const DataShape kIndices{{kWidth}, DType::kI32, 7};

// Numbers that tell the step, the micro-batch and the element.
float number(int64_t step, int64_t micro_batch, int64_t element) {
  return static_cast<float>(1000 * step + 100 * micro_batch + element);
}

std::vector<Field> fields_of(const DataShape& data) {
  return {{kInputsName, data.input, data.sample},
          data.classes > 0 ? Field{kTargetsName, DType::kI32, {}}
                           : Field{kTargetsName, DType::kF32, {data.targets}}};
}

StepBatch step_batch(int64_t step, const DataShape& data, int64_t valid_in_last = kSize) {
  StepBatch batch;
  batch.step = step;
  for (int64_t m = 0; m < kMicroBatches; ++m) {
    MicroBatch& micro_batch = batch.micro_batches.emplace_back(kSize, fields_of(data));
    micro_batch.number = m;
    micro_batch.valid = m + 1 == kMicroBatches ? valid_in_last : kSize;
    batch.valid += micro_batch.valid;
    for (int64_t i = 0; i < kSize * kWidth; ++i) {
      const auto at = static_cast<size_t>(i);
      if (data.input == DType::kI32) {
        micro_batch.values<int32_t>(kInputsName)[at] = static_cast<int32_t>(number(step, m, i));
      } else {
        micro_batch.values<float>(kInputsName)[at] = number(step, m, i);
      }
    }
    for (int64_t i = 0; i < kSize; ++i) {
      const auto at = static_cast<size_t>(i);
      if (data.classes > 0) {
        micro_batch.values<int32_t>(kTargetsName)[at] = static_cast<int32_t>((step + m + i) % data.classes);
      } else {
        micro_batch.values<float>(kTargetsName)[2 * at] = number(step, m, i);
        micro_batch.values<float>(kTargetsName)[2 * at + 1] = -number(step, m, i);
      }
    }
  }
  return batch;
}

std::vector<double> widened(const MicroBatch& batch, const char* name) {
  std::vector<double> wide;
  if (batch.field(name).dtype == DType::kI32) {
    for (const int32_t value : batch.values<int32_t>(name)) wide.push_back(value);
  } else {
    for (const float value : batch.values<float>(name)) wide.push_back(value);
  }
  return wide;
}

void expect_arrived(const InputQueue& queue, const StepBatch& batch) {
  EXPECT_EQ(queue.valid(), batch.valid);
  for (int64_t m = 0; m < kMicroBatches; ++m) {
    const MicroBatch& sent = batch.micro_batches[static_cast<size_t>(m)];
    const Batch& arrived = queue.batch(m);
    EXPECT_EQ(arrived.number, sent.number);
    EXPECT_EQ(arrived.valid, sent.valid);
    EXPECT_EQ(arrived.inputs().to_vector<double>(), widened(sent, kInputsName));
    EXPECT_EQ(arrived.targets().to_vector<double>(), widened(sent, kTargetsName));
    EXPECT_EQ(arrived.weights().defined(), sent.valid < sent.size);
    if (!arrived.weights().defined()) continue;
    std::vector<double> weights(kSize, 0.0);
    std::fill_n(weights.begin(), sent.valid, 1.0);
    EXPECT_EQ(arrived.weights().to_vector<double>(), weights);
  }
}

TEST(InputQueue, BringsEveryKindOfSampleInTheTypeOfTheModel) {
  for (const DataShape& data : {kClasses, kTargets, kIndices}) {
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      InputQueue queue(test_backend(), fields_of(data), dtype, kMicroBatches, kSize);
      queue.stage(step_batch(0, data));
      for (int64_t step = 0; step < 5; ++step) {
        queue.next();
        // Only every second step is padded.
        queue.stage(step_batch(step + 1, data, step % 2 == 0 ? 1 : kSize));
        expect_arrived(queue, step_batch(step, data, step % 2 == 1 ? 1 : kSize));
      }
      const Batch& batch = queue.batch(0);
      EXPECT_EQ(batch.inputs().shape(), (Shape{kSize, kWidth}));
      EXPECT_EQ(batch.inputs().dtype(), data.input == DType::kI32 ? DType::kI32 : dtype);
      EXPECT_EQ(batch.targets().shape(), data.classes > 0 ? (Shape{kSize}) : (Shape{kSize, 2}));
      EXPECT_EQ(batch.targets().dtype(), data.classes > 0 ? DType::kI32 : dtype);
    }
  }
}

// Nothing waits for the device in between: it may be many steps behind, and its queues overtake each other
// wherever they may.
TEST(InputQueue, StepsThatAreComputedLateSeeTheirOwnSamples) {
  Backend& backend = test_backend();
  InputQueue queue(backend, fields_of(kClasses), DType::kF32, kMicroBatches, kSize);
  constexpr int64_t kSteps = 24;
  std::vector<Tensor> inputs, labels;
  queue.stage(step_batch(0, kClasses));
  for (int64_t step = 0; step < kSteps; ++step) {
    queue.next();
    queue.stage(step_batch(step + 1, kClasses));
    for (int64_t m = 0; m < kMicroBatches; ++m) {
      inputs.push_back(queue.batch(m).inputs().clone());
      labels.push_back(queue.batch(m).targets().clone());
    }
  }
  for (int64_t step = 0; step < kSteps; ++step) {
    const StepBatch batch = step_batch(step, kClasses);
    for (int64_t m = 0; m < kMicroBatches; ++m) {
      const auto at = static_cast<size_t>(step * kMicroBatches + m);
      const MicroBatch& sent = batch.micro_batches[static_cast<size_t>(m)];
      EXPECT_EQ(inputs[at].to_vector<double>(), widened(sent, kInputsName)) << "step " << step;
      EXPECT_EQ(labels[at].to_vector<double>(), widened(sent, kTargetsName)) << "step " << step;
    }
  }
}

TEST(InputQueue, TensorsStayWhereTheyAreInTwoPlaces) {
  InputQueue queue(test_backend(), fields_of(kClasses), DType::kF32, kMicroBatches, kSize);
  std::vector<const void*> addresses[InputQueue::kPlaces];
  queue.stage(step_batch(0, kClasses, 2));
  for (int64_t step = 0; step < 6; ++step) {
    queue.next();
    queue.stage(step_batch(step + 1, kClasses, 2));
    EXPECT_EQ(queue.place(), step % 2);
    std::vector<const void*> now;
    for (int64_t m = 0; m < kMicroBatches; ++m) {
      const Batch& batch = queue.batch(m);
      now.insert(now.end(), {batch.inputs().data(), batch.targets().data()});
      if (batch.weights().defined()) now.push_back(batch.weights().data());
    }
    auto& before = addresses[queue.place()];
    if (before.empty()) before = now;
    EXPECT_EQ(now, before);
  }
  EXPECT_NE(addresses[0], addresses[1]);
}

TEST(InputQueue, EveryMicroBatchIsAlignedLikeATensorOfItsOwn) {
  for (const DataShape& data : {kClasses, kTargets, kIndices}) {
    InputQueue queue(test_backend(), fields_of(data), DType::kF32, kMicroBatches, kSize);
    queue.stage(step_batch(0, data, 1));
    queue.next();
    const auto offset = [](const Tensor& tensor, const Tensor& first) {
      return static_cast<const std::byte*>(tensor.data()) - static_cast<const std::byte*>(first.data());
    };
    for (int64_t m = 1; m < kMicroBatches; ++m) {
      EXPECT_EQ(offset(queue.batch(m).inputs(), queue.batch(0).inputs()) % 256, 0);
      EXPECT_EQ(offset(queue.batch(m).targets(), queue.batch(0).targets()) % 256, 0);
    }
  }
}

TEST(InputQueue, TheHostRemembersTheRangeOfIntegers) {
  InputQueue queue(test_backend(), fields_of(kIndices), DType::kF32, kMicroBatches, kSize);
  queue.stage(step_batch(0, kIndices));
  queue.next();
  queue.stage(step_batch(1, kIndices));
  const Batch& batch = queue.batch(1);
  ASSERT_TRUE(batch.inputs().index_range() && batch.targets().index_range());
  EXPECT_EQ(batch.inputs().index_range()->least, 0);
  EXPECT_EQ(batch.inputs().index_range()->largest, 219);  // number(0, 2, 19): of all micro-batches
  EXPECT_EQ(batch.targets().index_range()->least, 0);
  EXPECT_EQ(batch.targets().index_range()->largest, 5);
}

TEST(InputQueue, LossesAreTheBitsOfSamplesThatWereCopiedByThemselves) {
  for (const DataShape& data : {kClasses, kTargets, DataShape{{kWidth}, DType::kF32, 2}}) {
    const Objective objective("auto", data, DType::kF32, test_backend());
    InputQueue queue(test_backend(), fields_of(data), DType::kF32, kMicroBatches, kSize);
    const StepBatch batch = step_batch(0, data, 3);
    queue.stage(batch);
    queue.next();
    for (int64_t m = 0; m < kMicroBatches; ++m) {
      std::vector<float> values;
      const int64_t outputs = data.classes == 2 ? 1 : data.outputs();
      for (int64_t i = 0; i < kSize * outputs; ++i)
        values.push_back(0.37f * static_cast<float>(i % 5) - 0.7f);
      const Tensor output = Tensor::from({kSize, outputs}, values, test_backend());
      EXPECT_EQ(objective.losses(output, queue.batch(m)).to_vector<float>(),
                objective
                    .losses(output, to_device(batch.micro_batches[static_cast<size_t>(m)], DType::kF32,
                                              test_backend()))
                    .to_vector<float>());
    }
  }
}

// A weight a position, which each step has, and arrays that only the model knows.
TEST(InputQueue, BringsWeightsAtPositionsAndWhateverElseASampleHas) {
  const std::vector<Field> fields = {{kInputsName, DType::kI32, {3}},
                                     {kTargetsName, DType::kI32, {3}},
                                     {kWeightsName, DType::kF32, {3}},
                                     {"documents", DType::kI32, {3}},
                                     {"rates", DType::kF32, {}}};
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    InputQueue queue(test_backend(), fields, dtype, 1, 2);
    for (int32_t step = 0; step < 4; ++step) {
      StepBatch batch;
      MicroBatch& sent = batch.micro_batches.emplace_back(2, fields);
      sent.valid = step == 2 ? 1 : 2;
      for (int32_t i = 0; i < 6; ++i) {
        const auto at = static_cast<size_t>(i);
        sent.values<float>(kWeightsName)[at] = step == 3 ? 0.0f : 0.5f * static_cast<float>(i);
        sent.values<int32_t>("documents")[at] = step + i;
      }
      sent.values<float>("rates")[1] = 0.125f * static_cast<float>(step);
      queue.stage(batch);
      queue.next();
      const Batch& arrived = queue.batch(0);
      EXPECT_EQ(arrived.weights().shape(), (Shape{2, 3}));
      EXPECT_EQ(arrived.weights().dtype(), dtype);
      std::vector<double> weights = {0.0, 0.5, 1.0, 1.5, 2.0, 2.5};
      if (step == 2) std::fill(weights.begin() + 3, weights.end(), 0.0);
      if (step == 3) weights.assign(6, 0.0);
      EXPECT_EQ(arrived.weights().to_vector<double>(), weights);
      EXPECT_EQ(arrived.tensors.at("documents").to_vector<double>(), widened(sent, "documents"));
      EXPECT_EQ(arrived.tensors.at("documents").index_range()->largest, step + 5);
      EXPECT_EQ(arrived.tensors.at("rates").shape(), (Shape{2}));
      EXPECT_EQ(arrived.tensors.at("rates").to_vector<double>(), widened(sent, "rates"));
      // The same as a micro-batch by itself.
      const Batch alone = to_device(sent, dtype, test_backend());
      for (const auto& [name, tensor] : arrived.tensors.all()) {
        EXPECT_EQ(alone.tensors.at(name).shape(), tensor.shape());
        EXPECT_EQ(alone.tensors.at(name).dtype(), tensor.dtype());
        EXPECT_EQ(alone.tensors.at(name).to_vector<double>(), tensor.to_vector<double>());
      }
    }
  }
}

// Features that are stored as uint8 or fp16: all 256 values, and all of fp16's that are numbers.
TEST(InputQueue, NarrowFeaturesArriveWithTheBitsThatTheHostGivesThem) {
  for (const DType stored : {DType::kU8, DType::kF16}) {
    for (const auto& [scale, divisor] :
         {std::pair(1.0f, 1.0f), {-0.3f, 1.0f}, {1.0f, 255.0f}, {0.7f, 16.1f}}) {
      const int64_t width = stored == DType::kU8 ? 67 : 9001;
      const std::vector<Field> fields = {{kInputsName, stored, {width}, scale, divisor},
                                         {kTargetsName, DType::kI32, {}}};
      for (const DType dtype : {DType::kF32, DType::kF64}) {
        InputQueue queue(test_backend(), fields, dtype, 2, kSize);
        for (int64_t step = 0; step < 3; ++step) {
          StepBatch batch;
          for (int64_t m = 0; m < 2; ++m) {
            MicroBatch& sent = batch.micro_batches.emplace_back(kSize, fields);
            for (int64_t i = 0; i < kSize * width; ++i) {
              const auto at = static_cast<size_t>(i);
              const auto bits = static_cast<uint16_t>(i + 21 * m + 1000 * step);
              if (stored == DType::kU8) {
                sent.values<uint8_t>(kInputsName)[at] = static_cast<uint8_t>(bits);
              } else if ((bits >> 10 & 31) != 31) {
                sent.values<Float16>(kInputsName)[at] = std::bit_cast<Float16>(bits);
              }
            }
          }
          queue.stage(batch);
          queue.next();
          for (int64_t m = 0; m < 2; ++m) {
            const MicroBatch& sent = batch.micro_batches[static_cast<size_t>(m)];
            const std::vector<float> wanted = sent.real_values(kInputsName);
            const Tensor alone = to_device(sent, dtype, test_backend()).inputs();
            for (const Tensor& arrived : {queue.batch(m).inputs(), alone}) {
              EXPECT_EQ(arrived.dtype(), dtype);
              EXPECT_EQ(arrived.shape(), (Shape{kSize, width}));
              const std::vector<double> numbers = arrived.to_vector<double>();
              for (size_t i = 0; i < wanted.size(); ++i) {
                ASSERT_EQ(std::bit_cast<uint64_t>(numbers[i]),
                          std::bit_cast<uint64_t>(static_cast<double>(wanted[i])))
                    << i;
              }
            }
          }
        }
      }
    }
  }
}

TEST(InputQueue, RefusesCallsOutOfTurn) {
  const auto refusal = [](const std::function<void()>& work) -> std::string {
    try {
      work();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
      return error.what();
    }
    return "no error";
  };
  InputQueue queue(test_backend(), fields_of(kClasses), DType::kF32, kMicroBatches, kSize);
  EXPECT_EQ(refusal([&] { queue.next(); }), "input queue: no step is staged");
  EXPECT_EQ(refusal([&] { queue.batch(0); }), "input queue: next() comes first");
  queue.stage(step_batch(0, kClasses));
  queue.stage(step_batch(1, kClasses));
  EXPECT_EQ(refusal([&] { queue.stage(step_batch(2, kClasses)); }),
            "input queue: step 2 staged while 2 are waiting");
  queue.next();
  EXPECT_EQ(refusal([&] { queue.stage(step_batch(2, kClasses)); }),
            "input queue: step 2 staged while 1 are waiting");
  queue.next();
  queue.stage(step_batch(2, kClasses));
  queue.next();
  StepBatch less = step_batch(3, kClasses);
  less.micro_batches.pop_back();
  EXPECT_EQ(refusal([&] { queue.stage(less); }), "input queue: 2 micro-batches staged, expected 3");
  EXPECT_EQ(refusal([&] { queue.stage(step_batch(3, kTargets)); }),
            "input queue: fp32 'targets' of a micro-batch, expected int32 'targets'");
  StepBatch narrow = step_batch(3, kClasses);
  for (MicroBatch& batch : narrow.micro_batches) {
    batch.arrays[1].field.shape = {2};
    batch.arrays[1].values.resize(batch.arrays[1].values.size() / 2);
  }
  EXPECT_EQ(refusal([&] { queue.stage(narrow); }),
            "input queue: 2 values of 'targets' in a micro-batch that has 4");
  EXPECT_EQ(refusal([&] { InputQueue(test_backend(), fields_of(kClasses), DType::kBF16, 1, 1); }),
            "input queue: fp32 or fp64, not bf16");
}

}  // namespace
}  // namespace lockstep
