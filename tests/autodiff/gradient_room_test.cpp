// Gradients that are written where they are wanted: the same bits, and nothing left to copy.
#include "lockstep/autodiff/gradient_room.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "autodiff/wave.h"
#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/recompute.h"
#include "lockstep/ops/class_head.h"
#include "lockstep/ops/convolution.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/normalization.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {
namespace {

using testing::wave;

enum Parameter { kTable, kWeight, kBias, kGamma, kBeta, kKernel, kParameters };

std::vector<Tensor> parameters() {
  const std::vector<Shape> shapes = {{7, 9}, {9, 9}, {9}, {9}, {9}, {9, 1, 1, 9}};
  std::vector<Tensor> result;
  for (const Shape& shape : shapes)
    result.push_back(variable(wave(shape, 1.0), static_cast<int>(result.size())));
  return result;
}

// Losses (rows) of a network that uses its table at both ends, or another one in its head.
Tensor losses_of(const std::vector<Tensor>& p, int64_t rows, const Tensor& cotangent = {},
                 const Tensor& head = {}) {
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 5 % 7);
  const Tensor tokens = Tensor::from({rows}, ids, test_backend());
  Tensor x = linear(embedding(p[kTable], tokens), p[kWeight], p[kBias], Activation::kGelu);
  x = layer_norm(x, p[kGamma], p[kBeta], 1e-5);
  x = reshape(convolution(reshape(x, {rows, 1, 1, 9}), p[kKernel], {}, {}), {rows, 9});
  return head_losses({x, head.defined() ? head : p[kTable]}, tokens, {}, cotangent);
}

struct RoomSweep {
  std::map<int, std::vector<float>> gradients;
  std::set<int> in_room;
};

RoomSweep room_sweep(const Tensor& losses, const Tensor& cotangent, const std::map<int, Tensor>& rooms) {
  RoomSweep result;
  backward(losses, cotangent, [&](const Leaf& leaf, const Tensor& gradient) {
    result.gradients[leaf.index] = gradient.to_vector<float>();
    const auto room = rooms.find(leaf.index);
    if (room != rooms.end() && room->second.data() == gradient.data()) result.in_room.insert(leaf.index);
  });
  return result;
}

// With room for every parameter, as views into one array.
RoomSweep into_rooms(int64_t rows, const Tensor& cotangent, bool promised) {
  const std::vector<Tensor> p = parameters();
  const Tensor array = Tensor::full({64 * 8}, DType::kF32, test_backend(), 1e30);
  std::map<int, Tensor> rooms;
  int64_t begin = 0;
  for (int i = 0; i < kParameters; ++i) {
    const Shape& shape = p[static_cast<size_t>(i)].shape();
    rooms[i] = array.view(shape, begin);
    begin += (shape.elements() + 63) / 64 * 64;
  }
  std::set<int> asked;
  const GradientRoomScope scope([&](const Leaf& leaf) {
    EXPECT_TRUE(asked.insert(leaf.index).second) << leaf.index << " twice";
    return rooms.at(leaf.index);
  });
  return room_sweep(losses_of(p, rows, promised ? cotangent : Tensor()), cotangent, rooms);
}

TEST(GradientRoom, IsWhereGradientsOfLeavesEndWithTheSameBits) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const AutocastScope autocast(compute);
    // More rows than a head keeps, whose gradients are made in the forward pass where the cotangent is
    // promised.
    for (const int64_t rows : {int64_t{20}, 2 * kHeadRows + 3}) {
      const Tensor cotangent = Tensor::full({rows}, DType::kF32, test_backend(), 0.25);
      for (const bool promised : {false, true}) {
        const RoomSweep expected =
            room_sweep(losses_of(parameters(), rows, promised ? cotangent : Tensor()), cotangent, {});
        const RoomSweep found = into_rooms(rows, cotangent, promised);
        EXPECT_EQ(found.gradients, expected.gradients) << rows << promised;
        EXPECT_EQ(found.in_room, (std::set<int>{kTable, kWeight, kBias, kGamma, kBeta, kKernel}))
            << rows << promised;
      }
    }
  }
}

TEST(GradientRoom, WhatIsLookedUpIsAddedToTheGradientOfATiedHead) {
  const int64_t rows = 4;  // not all of the table
  const Tensor cotangent = Tensor::full({rows}, DType::kF32, test_backend(), 0.25);
  const std::vector<Tensor> p = parameters();
  const Tensor head = variable(p[kTable], kParameters);
  std::map<int, std::vector<float>> apart = room_sweep(losses_of(p, rows, {}, head), cotangent, {}).gradients;
  const std::vector<float> of_head = apart[kParameters];
  ASSERT_EQ(of_head.size(), apart[kTable].size());
  EXPECT_GT(std::ranges::count(apart[kTable], 0.0F), 9);
  for (size_t i = 0; i < of_head.size(); ++i) apart[kTable][i] = of_head[i] + apart[kTable][i];
  EXPECT_EQ(room_sweep(losses_of(parameters(), rows), cotangent, {}).gradients[kTable], apart[kTable]);
  EXPECT_EQ(into_rooms(rows, cotangent, false).gradients[kTable], apart[kTable]);
}

TEST(GradientRoom, IsNotGivenToASweepInsideOrToOneThatIsRecorded) {
  const Tensor room = Tensor::zeros({3, 3}, DType::kF32, test_backend());
  int asked = 0;
  const GradientRoomScope scope([&](const Leaf&) {
    ++asked;
    return room;
  });
  const Tensor w = variable(wave({3, 3}, 1.0), 0), x = wave({2, 3}, 0.5);
  const Function f = [&](std::span<const Tensor> in) { return sum(square(linear(x, in[0], {}))); };
  for (const bool create_graph : {false, true}) {
    const std::vector<Tensor> inner = grad(f, {&w, 1}, create_graph);
    EXPECT_NE(inner[0].data(), room.data()) << create_graph;
  }
  EXPECT_EQ(asked, 0);
  const Tensor y = f({&w, 1});
  backward(y, y.full_like(1.0),
           [&](const Leaf&, const Tensor& gradient) { EXPECT_EQ(gradient.data(), room.data()); });
  EXPECT_EQ(asked, 1);
}

TEST(GradientRoom, OfAnotherShapeOrTypeOrNoneIsNotTaken) {
  const Tensor x = wave({2, 3}, 0.5);
  for (const Tensor& room : {Tensor(), Tensor::zeros({9}, DType::kF32, test_backend()),
                             Tensor::zeros({3, 3}, DType::kF64, test_backend())}) {
    const GradientRoomScope scope([&](const Leaf&) { return room; });
    const Tensor w = variable(wave({3, 3}, 1.0), 0);
    const Tensor y = linear(x, w, {});
    backward(y, y.full_like(1.0), [&](const Leaf&, const Tensor& gradient) {
      EXPECT_EQ(gradient.shape(), w.shape());
      EXPECT_EQ(gradient.dtype(), DType::kF32);
      EXPECT_TRUE(!room.defined() || gradient.data() != room.data());
    });
  }
}

TEST(GradientRoom, GathersWhatSeveralUsesContributeInRecomputedPartsToo) {
  for (const bool again : {false, true}) {
    const auto run = [&](const Tensor& room) {
      const GradientRoomScope scope([&](const Leaf&) { return room; });
      const Tensor w = variable(wave({4, 4}, 0.7), 0), x = variable(wave({5, 4}, 1.0), -1);
      const Function f = [&](std::span<const Tensor> in) {
        return tanh(linear(tanh(linear(in[0], w, {})), w, {}));
      };
      const Tensor y = linear(again ? recompute(f, {&x, 1}) : f({&x, 1}), w, {});
      std::vector<float> gradient;
      backward(y, y.full_like(1.0), [&](const Leaf& leaf, const Tensor& of) {
        if (leaf.index != 0) return;
        gradient = of.to_vector<float>();
        EXPECT_TRUE(!room.defined() || of.data() == room.data());
      });
      return gradient;
    };
    EXPECT_EQ(run(Tensor::full({4, 4}, DType::kF32, test_backend(), 1e30)), run({})) << again;
  }
}

}  // namespace
}  // namespace lockstep
