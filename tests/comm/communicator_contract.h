// What every communicator promises. Include it in one file of a test program and instantiate
// CommunicatorContract with the worlds to test. All values are small integers, so sums are exact and do not
// depend on their order.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "tensor/tensor.h"

namespace lockstep::testing {

// A way to run the same work on every worker of a world, whose communicator moves the backend's memory.
struct World {
  std::string name;
  std::function<void(const std::function<void(Communicator&)>& work)> run;
  Backend* backend = &cpu_backend();
};
inline void PrintTo(const World& world, std::ostream* out) {
  *out << world.name;
}

// What element i of worker `rank` holds in round `round`: different for different arguments, exact in fp32.
inline int64_t sample(int rank, int64_t i, int64_t round = 0) {
  return (rank * 131 + i * 7 + round * 1009) % 1021 - 510;
}

template <class T>
std::vector<T> samples(int rank, int64_t n, int64_t round = 0) {
  std::vector<T> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = static_cast<T>(sample(rank, i, round));
  return values;
}

template <class T>
std::vector<T> sum_of_samples(int world_size, int64_t n, int64_t round = 0) {
  std::vector<T> sum(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    int64_t exact = 0;
    for (int r = 0; r < world_size; ++r) exact += sample(r, i, round);
    sum[static_cast<size_t>(i)] = static_cast<T>(exact);
  }
  return sum;
}

class CommunicatorContract : public ::testing::TestWithParam<World> {
 protected:
  static void run(const std::function<void(Communicator&)>& work) { GetParam().run(work); }

  // Values where the communicator finds them, and back.
  template <class T>
  static Tensor array(const std::vector<T>& values) {
    Backend& backend = *GetParam().backend;
    Tensor tensor = Tensor::from(Shape{static_cast<int64_t>(values.size())}, values, backend);
    backend.lane().wait_for(backend);
    return tensor;
  }
  template <class T>
  static Tensor array(size_t n, T value) {
    return array(std::vector<T>(n, value));
  }
  template <class T>
  static std::vector<T> values(const Tensor& tensor) {
    tensor.backend().wait_for(tensor.backend().lane());
    return tensor.to_vector<T>();
  }
};

TEST_P(CommunicatorContract, RankLiesWithinTheWorld) {
  run([](Communicator& c) {
    EXPECT_GE(c.rank(), 0);
    EXPECT_LT(c.rank(), c.world_size());
    EXPECT_FALSE(c.description().empty());
  });
}

TEST_P(CommunicatorContract, AllReduceSumIsExactOnEveryWorkerForEverySize) {
  run([](Communicator& c) {
    for (const int64_t n : {0, 1, 2, 7, 64, 1000, 65537, 600000}) {
      Tensor f32 = array(samples<float>(c.rank(), n)), f64 = array(samples<double>(c.rank(), n));
      auto a = c.all_reduce_sum(f32.mutable_data(), n, DType::kF32, "fp32");
      auto b = c.all_reduce_sum(f64.mutable_data(), n, DType::kF64, "fp64");
      a->wait();
      b->wait();
      EXPECT_TRUE(values<float>(f32) == sum_of_samples<float>(c.world_size(), n)) << n;
      EXPECT_TRUE(values<double>(f64) == sum_of_samples<double>(c.world_size(), n)) << n;
    }
  });
}

TEST_P(CommunicatorContract, AllReduceMaxFindsTheLargestIncludingNegativeAndExtremeValues) {
  run([](Communicator& c) {
    Tensor largest =
        array<int64_t>({-5 - c.rank(), c.rank(), INT64_MIN, c.rank() == 0 ? INT64_MAX : INT64_MIN});
    c.all_reduce_max(largest.mutable_data_as<int64_t>(), 4, "max")->wait();
    EXPECT_EQ(values<int64_t>(largest), (std::vector<int64_t>{-5, c.world_size() - 1, INT64_MIN, INT64_MAX}));
  });
}

TEST_P(CommunicatorContract, AllGatherOrdersBlocksByRank) {
  run([](Communicator& c) {
    for (const int64_t n : {0, 1, 3, 1000, 300000}) {
      const Tensor mine = array(samples<float>(c.rank(), n));
      Tensor all = array(static_cast<size_t>(n * c.world_size()), -1.0f);
      std::vector<float> expected;
      c.all_gather(mine.data(), mine.bytes(), all.mutable_data(), "gather")->wait();
      for (int r = 0; r < c.world_size(); ++r) {
        const auto theirs = samples<float>(r, n);
        expected.insert(expected.end(), theirs.begin(), theirs.end());
      }
      EXPECT_TRUE(values<float>(all) == expected) << n;
    }
  });
}

TEST_P(CommunicatorContract, BroadcastReachesEveryWorkerFromEveryRoot) {
  run([](Communicator& c) {
    for (int root = 0; root < c.world_size(); ++root) {
      for (const int64_t n : {0, 1, 100000}) {
        Tensor data = array(samples<float>(c.rank(), n, root));
        c.broadcast(data.mutable_data(), data.bytes(), root, "broadcast")->wait();
        EXPECT_TRUE(values<float>(data) == samples<float>(root, n, root)) << root << " " << n;
      }
    }
  });
}

TEST_P(CommunicatorContract, ExchangeMatchesBlocksBetweenTwoRanksInOrderAndSkipsEmptyOnes) {
  run([](Communicator& c) {
    // To each worker (oneself included): three blocks, whose sizes depend on both ends; one of them is empty.
    const auto size = [](int from, int to, int block) {
      return block == 1 ? int64_t{0} : int64_t{1} + (from * 37 + to * 11 + block * 4096) % 20000;
    };
    std::vector<Tensor> sent, received;
    std::vector<SendBlock> sends;
    std::vector<ReceiveBlock> receives;
    for (int r = 0; r < c.world_size(); ++r) {
      for (int block = 0; block < 3; ++block) {
        sent.push_back(array(samples<float>(c.rank(), size(c.rank(), r, block), block)));
        received.push_back(array(static_cast<size_t>(size(r, c.rank(), block)), -1.0f));
        sends.push_back({r, sent.back().data(), sent.back().bytes()});
        receives.push_back({r, received.back().mutable_data(), received.back().bytes()});
      }
    }
    c.exchange(sends, receives, "blocks")->wait();
    for (int r = 0; r < c.world_size(); ++r) {
      for (int block = 0; block < 3; ++block) {
        EXPECT_TRUE(values<float>(received[static_cast<size_t>(3 * r + block)]) ==
                    samples<float>(r, size(r, c.rank(), block), block));
      }
    }
  });
}

TEST_P(CommunicatorContract, ExchangeOfNothingIsDoneAtOnce) {
  run([](Communicator& c) {
    const auto request = c.exchange({}, {}, "nothing");
    EXPECT_TRUE(request->test());
    request->wait();
  });
}

TEST_P(CommunicatorContract, ExchangeMayBeOneSided) {
  run([](Communicator& c) {
    // Everyone sends to rank 0 only.
    const Tensor mine = array(samples<double>(c.rank(), 1000));
    std::vector<Tensor> all;
    std::vector<ReceiveBlock> receives;
    for (int r = 0; c.rank() == 0 && r < c.world_size(); ++r) {
      all.push_back(array(1000, 0.0));
      receives.push_back({r, all.back().mutable_data(), 8000});
    }
    c.exchange({{0, mine.data(), 8000}}, receives, "to rank 0")->wait();
    for (int r = 0; c.rank() == 0 && r < c.world_size(); ++r) {
      EXPECT_TRUE(values<double>(all[static_cast<size_t>(r)]) == samples<double>(r, 1000));
    }
    values<double>(mine);  // its memory is in use until then
  });
}

TEST_P(CommunicatorContract, ManyCollectivesUnderWayDoNotMixAndMayBeWaitedForInAnyOrder) {
  run([](Communicator& c) {
    constexpr int64_t kRounds = 24;
    const int64_t n = 5000;
    const int next = (c.rank() + 1) % c.world_size(),
              previous = (c.rank() + c.world_size() - 1) % c.world_size();
    std::vector<Tensor> sent, received, sums;
    std::vector<std::unique_ptr<Request>> requests;
    for (int64_t round = 0; round < kRounds; ++round) {
      sent.push_back(array(samples<float>(c.rank(), n, round)));
      received.push_back(array(static_cast<size_t>(n), -1.0f));
      sums.push_back(array(samples<float>(c.rank(), n, round)));
    }
    for (size_t round = 0; round < kRounds; ++round) {
      requests.push_back(c.exchange({{next, sent[round].data(), n * sizeof(float)}},
                                    {{previous, received[round].mutable_data(), n * sizeof(float)}}, "ring"));
      requests.push_back(c.all_reduce_sum(sums[round].mutable_data(), n, DType::kF32, "sum"));
    }
    for (size_t i = requests.size(); i-- > 0;) requests[i]->wait();
    for (size_t round = 0; round < kRounds; ++round) {
      EXPECT_TRUE(values<float>(received[round]) == samples<float>(previous, n, static_cast<int64_t>(round)))
          << round;
      EXPECT_TRUE(values<float>(sums[round]) ==
                  sum_of_samples<float>(c.world_size(), n, static_cast<int64_t>(round)))
          << round;
    }
  });
}

TEST_P(CommunicatorContract, TestAloneBringsACollectiveToItsEnd) {
  run([](Communicator& c) {
    const Tensor data = array(samples<float>(c.rank(), 300000));
    Tensor all = array(300000 * static_cast<size_t>(c.world_size()), -1.0f);
    const auto request = c.all_gather(data.data(), data.bytes(), all.mutable_data(), "polled");
    while (!request->test()) std::this_thread::yield();
    EXPECT_TRUE(request->test());  // done stays done
    request->wait();
    EXPECT_EQ(values<float>(all).back(), static_cast<float>(sample(c.world_size() - 1, 299999)));
  });
}

TEST_P(CommunicatorContract, BarrierHoldsEveryoneUntilTheLastHasCome) {
  run([](Communicator& c) {
    // The last rank is late; nobody may leave before it has entered. Clocks are shared: all run on one
    // machine.
    const auto now = [] {
      return std::chrono::duration_cast<std::chrono::nanoseconds>(
                 std::chrono::steady_clock::now().time_since_epoch())
          .count();
    };
    c.barrier("together");
    if (c.rank() == c.world_size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const int64_t entered = now();
    c.barrier("late");
    const int64_t left = now();
    Tensor last = array<int64_t>({entered});
    c.all_reduce_max(last.mutable_data_as<int64_t>(), 1, "last entry")->wait();
    EXPECT_GE(left, values<int64_t>(last)[0]);
  });
}

}  // namespace lockstep::testing
