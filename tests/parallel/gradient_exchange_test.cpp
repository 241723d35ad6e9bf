// The exchange against the oracle, with workers as threads; misuse; what a lone worker costs.
#include "lockstep/parallel/gradient_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>

#include "comm/threaded_communicator.h"
#include "device.h"
#include "lockstep/core/error.h"
#include "parallel/exchange_check.h"

namespace lockstep::testing {
namespace {

TEST(Oracle, OtherAssociationsGiveOtherBits) {
  for (int64_t m = 3; m <= 64; ++m) {
    const auto gradients = rough_gradients<float>(m, 150, 1);
    const auto tree = tree_sum_of_vectors(gradients);
    std::vector<float> in_turn = gradients[0];
    for (size_t i = 1; i < gradients.size(); ++i) {
      for (size_t j = 0; j < in_turn.size(); ++j) in_turn[j] += gradients[i][j];
    }
    EXPECT_EQ(same_bits<float>(tree, in_turn), m == 3) << m;  // for 3 the two orders are one
    std::vector<std::vector<float>> rotated(gradients.begin() + 1, gradients.end());
    rotated.push_back(gradients[0]);
    EXPECT_FALSE(same_bits<float>(tree, tree_sum_of_vectors(rotated))) << m;
  }
}

using Hosts = std::vector<std::string>;

// Hosts of so many workers each, in turn.
Hosts hosts_of(int world_size, const std::vector<int>& sizes) {
  Hosts hosts;
  for (size_t host = 0; std::ssize(hosts) < world_size; ++host) {
    hosts.resize(hosts.size() + static_cast<size_t>(sizes[host % sizes.size()]), "h" + std::to_string(host));
  }
  hosts.resize(static_cast<size_t>(world_size));
  return hosts;
}
// Ranks that take turns between two hosts: none are neighbours.
Hosts interleaved_hosts(int world_size) {
  Hosts hosts;
  for (int rank = 0; rank < world_size; ++rank) hosts.push_back(rank % 2 == 0 ? "even" : "odd");
  return hosts;
}

// One run of the case with `world_size` threads as workers of these hosts.
template <class T>
void check_on_hosts(int world_size, const Hosts& hosts, const ExchangeCase& c, const ExchangeData<T>& data) {
  run_threaded(
      world_size,
      [&](Communicator& communicator) { check_exchange<T>(communicator, cpu_backend(), c, data); }, 20.0,
      false, hosts);
}

// The same on one host, on as many as there are workers, and on some.
template <class T>
void check_threaded(int world_size, const ExchangeCase& c, const ExchangeData<T>& data) {
  check_on_hosts<T>(world_size, {}, c, data);
  if (world_size > 1) check_on_hosts<T>(world_size, hosts_of(world_size, {1}), c, data);
  if (world_size > 2) check_on_hosts<T>(world_size, hosts_of(world_size, {2}), c, data);
}
template <class T>
void check_threaded(int world_size, const ExchangeCase& c) {
  check_threaded<T>(world_size, c, ExchangeData<T>(c));
}

// Under the thread sanitizer, which makes a worker's step some fifty times as long, a part of the cases has
// every way that workers meet.
#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
constexpr bool kThreadSanitizer = false;
#endif

// The plans are tested for every pair up to 64; here every pair up to 16 and the telling ones up to 64.
TEST(GradientExchange, EqualsTheTreeForNumbersOfMicroBatchesAndWorkersUpTo64) {
  for (int64_t m = 1; m <= 64; ++m) {
    if (kThreadSanitizer && m > 8 && m % 8 != 0) continue;
    for (int w = 1; w <= m; ++w) {
      if (m > 16 && w > 3 && w != 8 && w != m / 2 && w != m - 1 && w != m) continue;
      ExchangeCase c;
      c.micro_batches = m;
      c.slices = {0, 5, 100};
      c.extent = 120;
      c.bucket_bytes = 256;
      c.seed = static_cast<uint64_t>(100 * m + w);
      c.steps = 1;
      check_threaded<float>(w, c);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(GradientExchange, DoesNotDependOnTheLayoutOfHosts) {
  for (const int w : {3, 4, 5, 7}) {
    for (const int64_t m : {7, 8, 13}) {
      for (const bool kept : {false, true}) {
        ExchangeCase c;
        c.micro_batches = m;
        c.slices = {0, 5, 20000};
        c.extent = 33333;
        c.bucket_bytes = 60000;
        c.seed = static_cast<uint64_t>(100 * m + w);
        if (kept) c.shares = whole_shares(std::vector<int64_t>{0, 5}, 20000, w);
        const ExchangeData<float> data(c);
        for (const Hosts& hosts : {hosts_of(w, {3}), hosts_of(w, {1, 2}), hosts_of(w, {2, 1}),
                                   hosts_of(w, {w - 1}), hosts_of(w, {1, 3}), interleaved_hosts(w)}) {
          check_on_hosts<float>(w, hosts, c, data);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// What each host sends to others in a step, in gradients. Workers of a host send each other nothing but what
// they find each other by.
TEST(GradientExchange, AHostSendsOneGradientWhateverTheNumberOfItsWorkers) {
  constexpr int64_t kElements = 1 << 18;
  for (const int workers_a_host : {1, 2, 4}) {
    for (const bool kept : {false, true}) {
      const int w = 2 * workers_a_host;
      std::vector<size_t> away(static_cast<size_t>(w));
      run_threaded(
          w,
          [&](Communicator& communicator) {
            ExchangeOptions options;
            options.micro_batches = 16;
            if (kept) options.shares = striped_shares(kElements, w);
            GradientExchange exchange(communicator, cpu_backend(), DType::kF32, kElements, {0}, options);
            const std::vector<float> values(kElements, 1.0f);
            const auto& sent = dynamic_cast<ThreadedCommunicator&>(communicator);
            size_t away_before = 0, at_home_before = 0;
            for (int step = 0; step < 2; ++step) {
              exchange.begin_step();
              away_before = sent.sent_away();
              at_home_before = sent.sent_at_home();
              const MicroBatchRange owned = owned_micro_batches(16, communicator.rank(), w);
              for (int64_t m = owned.begin; m < owned.end; ++m) {
                exchange.begin_micro_batch(m);
                exchange.add(0, kElements, values.data());
                exchange.end_micro_batch();
              }
              exchange.finish();
            }
            away[static_cast<size_t>(communicator.rank())] = sent.sent_away() - away_before;
            EXPECT_EQ(sent.sent_at_home(), at_home_before);
          },
          20.0, false, hosts_of(w, {workers_a_host}));
      for (int host = 0; host < 2; ++host) {
        const auto first = away.begin() + host * workers_a_host;
        const size_t bytes = std::accumulate(first, first + workers_a_host, size_t{0});
        EXPECT_EQ(bytes, kElements * sizeof(float) / (kept ? 2 : 1)) << workers_a_host << " workers a host";
      }
    }
  }
}

// 19 slices of 1 to 8,000 elements.
ExchangeCase uneven_case(int64_t micro_batches) {
  ExchangeCase c;
  c.micro_batches = micro_batches;
  c.slices = {0};
  for (int64_t i = 1; i < 19; ++i) c.slices.push_back(c.slices.back() + 1 + (i * i * i * 977) % 8000);
  c.extent = c.slices.back() + 333;
  return c;
}

TEST(GradientExchange, DoesNotDependOnBucketsOrTheOrderOfAdds) {
  const ExchangeData<float> data(uneven_case(5));
  for (const int64_t bucket_bytes : {int64_t{1}, int64_t{4096}, int64_t{20000}, int64_t{25} << 20}) {
    for (const bool shuffle : {false, true}) {
      for (const int w : {1, 2, 3, 5}) {
        ExchangeCase c = uneven_case(5);
        c.bucket_bytes = bucket_bytes;
        c.shuffle_adds = shuffle;
        check_threaded<float>(w, c, data);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(GradientExchange, CutsLargeBucketsIntoPiecesWithoutChangingBits) {
  ExchangeCase c;
  c.micro_batches = 4;
  c.slices = {0, 100001};
  c.extent = 1500017;
  c.steps = 1;
  const ExchangeData<float> data(c);
  for (const int w : {2, 3}) check_threaded<float>(w, c, data);
}

TEST(GradientExchange, SumsDoublePrecisionInDoublePrecision) {
  for (const int w : {1, 2, 3, 4}) {
    const ExchangeCase c = uneven_case(6);
    check_threaded<double>(w, c);
  }
}

TEST(GradientExchange, LeavesEachWorkerTheSumsOfItsSharesAndSharesWhatLiesBehindThem) {
  const ExchangeData<float> data(uneven_case(6));
  for (const ReductionMode mode : {ReductionMode::kLockstep, ReductionMode::kLibrary}) {
    for (const int64_t bucket_bytes : {int64_t{1}, int64_t{20000}, int64_t{25} << 20}) {
      for (const int w : {1, 2, 3, 5}) {
        if (kThreadSanitizer && w != 2 && w != 5) continue;
        ExchangeCase c = uneven_case(6);
        c.mode = mode;
        c.bucket_bytes = bucket_bytes;
        const int64_t kept = c.slices[12];
        const std::vector<int64_t> offsets(c.slices.begin(), c.slices.begin() + 12);
        for (const std::vector<Share>& shares :
             {striped_shares(kept, w), whole_shares(offsets, kept, w), striped_shares(c.extent, w),
              whole_shares(c.slices, c.extent, w)}) {
          c.shares = shares;
          check_threaded<float>(w, c, data);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(GradientExchange, KeepsSharesOfPiecesOfLargeBuckets) {
  ExchangeCase c;
  c.micro_batches = 4;
  c.slices = {0, 100001, 1500000};
  c.extent = 1500017;
  c.steps = 2;
  const ExchangeData<float> data(c);
  for (const int w : {2, 3}) {
    for (const std::vector<Share>& shares :
         {striped_shares(1500000, w), whole_shares(std::vector<int64_t>{0, 100001}, 1500000, w)}) {
      c.shares = shares;
      check_threaded<float>(w, c, data);
    }
  }
}

TEST(GradientExchange, KeepsGapsBetweenSlicesZero) {
  for (const int w : {1, 2, 3}) {
    ExchangeCase c = uneven_case(3);
    c.gap = 13;
    check_threaded<float>(w, c);
  }
}

TEST(GradientExchange, LibraryModeAgreesWithinRounding) {
  for (const int w : {1, 2, 3, 4}) {
    ExchangeCase c = uneven_case(7);
    c.mode = ReductionMode::kLibrary;
    c.bucket_bytes = 20000;
    check_threaded<float>(w, c);
  }
}

// The tree needs an array for every level of it that is open; a sum in the library's order needs the sum.
TEST(GradientExchange, LibraryModeHoldsOneArray) {
  const auto self = make_self_communicator();
  const auto bytes = [&](ReductionMode mode) {
    return GradientExchange(*self, test_backend(), DType::kF32, 1000, {0},
                            {.micro_batches = 32, .mode = mode})
        .bytes();
  };
  EXPECT_EQ(bytes(ReductionMode::kLibrary), 1000 * sizeof(float));
  EXPECT_EQ(bytes(ReductionMode::kLockstep), 5 * 1000 * sizeof(float));
}

// Numbers that fp32 would lose, beside gradients that are odd in number, in buckets of any size.
TEST(GradientExchange, CarriesSumsOfDoublesBehindTheGradient) {
  constexpr int64_t kMicroBatches = 7;
  const auto losses = [](int64_t m) {
    return std::pair(1e9 + 0.125 * static_cast<double>(m), 1.0 / 3.0 + static_cast<double>(m));
  };
  std::vector<std::vector<double>> first, second;
  for (int64_t m = 0; m < kMicroBatches; ++m) {
    first.push_back({losses(m).first});
    second.push_back({losses(m).second});
  }
  const double expected[] = {testing::tree_sum_of_vectors(first)[0], testing::tree_sum_of_vectors(second)[0]};
  for (const ReductionMode mode : {ReductionMode::kLockstep, ReductionMode::kLibrary}) {
    for (const int64_t extent : {0, 1, 77, 5000}) {
      for (const int64_t bucket_bytes : {64, 1 << 20}) {
        for (const int workers : {1, 2, 3, 5}) {
          testing::run_threaded(workers, [&](Communicator& communicator) {
            ExchangeOptions options;
            options.micro_batches = kMicroBatches;
            options.mode = mode;
            options.bucket_bytes = bucket_bytes;
            options.sums = 2;
            const std::vector<int64_t> slices = extent > 0 ? std::vector<int64_t>{0} : std::vector<int64_t>();
            GradientExchange exchange(communicator, cpu_backend(), DType::kF32, extent, slices, options);
            const MicroBatchRange owned =
                owned_micro_batches(kMicroBatches, communicator.rank(), communicator.world_size());
            for (int step = 0; step < 2; ++step) {
              exchange.begin_step();
              for (int64_t m = owned.begin; m < owned.end; ++m) {
                exchange.begin_micro_batch(m);
                const std::vector<float> gradient(static_cast<size_t>(extent), static_cast<float>(m));
                if (extent > 0) exchange.add(0, extent, gradient.data());
                const double values[] = {losses(m).first, losses(m).second};
                exchange.add_sums(values);
                exchange.end_micro_batch();
              }
              exchange.finish();
              for (int i = 0; i < 2; ++i) {
                const double found = exchange.sums()[i];
                const double tolerance = mode == ReductionMode::kLockstep ? 0.0 : 1e-15 * expected[i];
                if (!(std::abs(found - expected[i]) <= tolerance)) throw std::runtime_error("sums differ");
              }
              for (int64_t i = 0; i < extent; ++i) {
                if (exchange.result().data_as<float>()[i] != 21.0f) throw std::runtime_error("gradient");
              }
            }
          });
        }
      }
    }
  }
}

TEST(GradientExchange, CountsUntouchedSlicesAsZeroBitForBit) {
  // -0 + 0 is +0, so a skipped addition would show. Worker counts that keep the pair together and that part
  // it.
  const float minus_zero[] = {-0.0f, -0.0f, 1.0f};
  for (const int64_t m : {2, 3, 4}) {
    for (int w = 1; w <= m; ++w) {
      for (int64_t absent = 0; absent < m; ++absent) {
        run_threaded(w, [&](Communicator& communicator) {
          ExchangeOptions options;
          options.micro_batches = m;
          GradientExchange exchange(communicator, cpu_backend(), DType::kF32, 6, {0, 3}, options);
          const MicroBatchRange owned = owned_micro_batches(m, communicator.rank(), w);
          for (int step = 0; step < 2; ++step) {
            exchange.begin_step();
            for (int64_t i = owned.begin; i < owned.end; ++i) {
              exchange.begin_micro_batch(i);
              if (i != absent) exchange.add(3, 3, minus_zero);
              exchange.end_micro_batch();
            }
            exchange.finish();
            const float sum[] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, static_cast<float>(m - 1)};
            EXPECT_TRUE(same_bits<float>(exchange.result().to_vector<float>(), sum))
                << "M " << m << ", W " << w << ", absent " << absent;
          }
        });
      }
    }
  }
}

TEST(GradientExchange, CarriesInfinitiesAndNotANumbersThrough) {
  run_threaded(3, [](Communicator& communicator) {
    ExchangeOptions options;
    options.micro_batches = 3;
    GradientExchange exchange(communicator, cpu_backend(), DType::kF32, 2, {0}, options);
    const float values[] = {communicator.rank() == 1 ? INFINITY : 1.0f,
                            communicator.rank() == 2 ? NAN : 1.0f};
    exchange.begin_step();
    exchange.begin_micro_batch(communicator.rank());
    exchange.add(0, 2, values);
    exchange.end_micro_batch();
    exchange.finish();
    const auto sum = exchange.result().to_vector<float>();
    EXPECT_EQ(sum[0], INFINITY);
    EXPECT_TRUE(std::isnan(sum[1]));
  });
}

TEST(GradientExchange, CutsBucketsOfWholeSlicesFromTheEnd) {
  const auto self = make_self_communicator();
  const auto buckets = [&](std::vector<int64_t> slices, int64_t extent, int64_t bytes) {
    ExchangeOptions options;
    options.bucket_bytes = bytes;
    return GradientExchange(*self, cpu_backend(), DType::kF32, extent, std::move(slices), options).buckets();
  };
  EXPECT_EQ(buckets({0, 10, 20, 30}, 40, 1), 4);
  EXPECT_EQ(buckets({0, 10, 20, 30}, 40, 80), 2);
  EXPECT_EQ(buckets({0, 10, 20, 30}, 40, 119), 2);
  EXPECT_EQ(buckets({0, 10, 20, 30}, 40, 120), 2);
  EXPECT_EQ(buckets({0, 10, 20, 30}, 40, 160), 1);
  EXPECT_EQ(buckets({0, 1000}, 1001, 100), 2);  // a slice larger than a bucket is one
  EXPECT_EQ(buckets({}, 0, 100), 0);
}

// Counts what is asked of the communicator while passing it on.
class ExpectsNoTraffic final : public Communicator {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  HostPlace host_place() const override { return {}; }
  std::string description() const override { return "none"; }
  std::unique_ptr<Request> exchange(std::vector<SendBlock>, std::vector<ReceiveBlock>, std::string) override {
    return refuse();
  }
  std::unique_ptr<Request> all_reduce_sum(void*, int64_t, DType, std::string) override { return refuse(); }
  std::unique_ptr<Request> all_reduce_max(int64_t*, int64_t, std::string) override { return refuse(); }
  std::unique_ptr<Request> all_gather(const void*, size_t, void*, std::string) override { return refuse(); }
  std::unique_ptr<Request> broadcast(void*, size_t, int, std::string) override { return refuse(); }
  void barrier(std::string) override { refuse(); }
  [[noreturn]] void abort(int) override { std::abort(); }

 private:
  static std::unique_ptr<Request> refuse() { fail(ErrorKind::kInternal, "communicated"); }
};

TEST(GradientExchange, NeverCommunicatesWhenAlone) {
  ExpectsNoTraffic none;
  for (const ReductionMode mode : {ReductionMode::kLockstep, ReductionMode::kLibrary}) {
    for (const int64_t m : {1, 2, 5, 8}) {
      ExchangeCase c = uneven_case(m);
      c.mode = mode;
      check_exchange<float>(none, test_backend(), c, ExchangeData<float>(c));
    }
  }
}

// The first of two workers, alone: what it exchanges takes as long as the test says, and moves nothing.
class SlowCommunicator final : public Communicator {
 public:
  // `work` is called with each exchange. Unless `at_once`, the first half of an exchange counts as done only
  // when it is waited for, so that the second begins in finish().
  SlowCommunicator(std::function<void()> work, bool at_once) : work_(std::move(work)), at_once_(at_once) {}
  int rank() const override { return 0; }
  int world_size() const override { return 2; }
  HostPlace host_place() const override { return {}; }
  std::string host_of(int rank) const override { return std::to_string(rank); }
  std::string description() const override { return "slow"; }
  std::unique_ptr<Request> exchange(std::vector<SendBlock>, std::vector<ReceiveBlock>, std::string) override {
    work_();
    return std::make_unique<Done>(at_once_);
  }
  std::unique_ptr<Request> all_reduce_sum(void*, int64_t, DType, std::string) override { return none(); }
  std::unique_ptr<Request> all_reduce_max(int64_t*, int64_t, std::string) override { return none(); }
  std::unique_ptr<Request> all_gather(const void*, size_t, void*, std::string) override { return none(); }
  std::unique_ptr<Request> broadcast(void*, size_t, int, std::string) override { return none(); }
  void barrier(std::string) override {}
  [[noreturn]] void abort(int) override { std::abort(); }

 private:
  struct Done final : Request {
    explicit Done(bool tests) : tests_(tests) {}
    bool test() override { return tests_; }
    void wait() override {}
    bool tests_;
  };
  static std::unique_ptr<Request> none() { fail(ErrorKind::kInternal, "not expected"); }

  std::function<void()> work_;
  bool at_once_;
};

// Work for the lane that takes about 50 ms.
std::function<void()> lane_work(Backend& backend) {
  static constexpr double kSeconds = 0.05;
  if (test_device() == "cpu") {
    return [] { std::this_thread::sleep_for(std::chrono::duration<double>(kSeconds)); };
  }
  // Fills of an array, as many as take that long.
  Backend& lane = backend.lane();
  auto array = std::make_shared<Tensor>(Tensor::zeros({1 << 20}, DType::kF32, backend));
  const auto fills = [&lane, array](int count) {
    for (int i = 0; i < count; ++i) lane.fill(DType::kF32, array->elements(), array->mutable_data(), 0.0);
  };
  lane.wait_for(backend);
  fills(1);
  lane.synchronize();
  const auto begin = std::chrono::steady_clock::now();
  fills(4);
  lane.synchronize();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  return [fills, count = static_cast<int>(4 * kSeconds / taken.count()) + 1] { fills(count); };
}

TEST(GradientExchange, MeasuresWhatTheSweepDoesNotHideWhereTheComputationWaits) {
  Backend& backend = test_backend();
  const std::function<void()> work = lane_work(backend);
  double worked = 0.0;  // seconds that the lane spent in finish(), by the host's clock
  // Exposed seconds of a few steps.
  const auto measured = [&](bool exposed) {
    bool finishing = false;
    SlowCommunicator communicator(
        [&] {
          if (finishing != exposed) return;
          backend.synchronize();  // the computation has come to where it waits
          backend.lane().synchronize();
          const auto begin = std::chrono::steady_clock::now();
          work();
          backend.lane().synchronize();
          const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
          if (exposed) worked += taken.count();
        },
        !exposed);
    ExchangeOptions options;
    options.micro_batches = 2;
    GradientExchange exchange(communicator, backend, DType::kF32, 64, {0}, options);
    const Tensor values = Tensor::zeros({64}, DType::kF32, backend);
    for (int step = 0; step < 3; ++step) {
      exchange.begin_step();
      exchange.begin_micro_batch(0);
      finishing = false;
      exchange.add(0, 64, values.data());
      exchange.end_micro_batch();
      finishing = true;
      exchange.finish();
    }
    backend.synchronize();
    const double seconds = exchange.take_exposed_seconds();
    EXPECT_EQ(exchange.take_exposed_seconds(), 0.0) << "counted twice";
    return seconds;
  };
  const double exposed = measured(true), hidden = measured(false);
  EXPECT_GE(exposed, worked - 1e-4);
  EXPECT_LT(hidden, exposed / 2);
}

std::string failure_of(ErrorKind kind, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "no failure";
}

TEST(GradientExchange, RefusesMoreWorkersThanMicroBatchesNamingBoth) {
  run_threaded(3, [](Communicator& communicator) {
    ExchangeOptions options;
    options.micro_batches = 2;
    EXPECT_EQ(
        failure_of(ErrorKind::kUsage,
                   [&] { GradientExchange(communicator, cpu_backend(), DType::kF32, 4, {0}, options); }),
        "train.micro_batches: at least one for every worker: 2 micro-batches, 3 workers");
  });
}

TEST(GradientExchange, RefusesImpossibleLayouts) {
  const auto self = make_self_communicator();
  const auto make = [&](DType dtype, std::vector<int64_t> slices, int64_t bucket_bytes) {
    return failure_of(ErrorKind::kInternal, [&] {
      ExchangeOptions options;
      options.bucket_bytes = bucket_bytes;
      GradientExchange(*self, cpu_backend(), dtype, 10, slices, options);
    });
  };
  EXPECT_EQ(make(DType::kBF16, {0}, 100), "gradient exchange: fp32 or fp64, not bf16");
  EXPECT_EQ(make(DType::kF32, {0}, 0), "gradient exchange: bucket of 0 bytes");
  EXPECT_EQ(make(DType::kF32, {0, 10}, 100),
            "gradient exchange: slices must ascend within 10 elements: slice 1 at 10");
  EXPECT_EQ(make(DType::kF32, {0, 5, 5}, 100),
            "gradient exchange: slices must ascend within 10 elements: slice 1 at 5");
  EXPECT_EQ(make(DType::kF32, {-1, 5}, 100),
            "gradient exchange: slices must ascend within 10 elements: slice 0 at -1");
  for (const int64_t kept : {3, 11}) {
    EXPECT_EQ(
        failure_of(ErrorKind::kInternal,
                   [&] {
                     ExchangeOptions options;
                     options.shares = {{{0, kept}, 0}};
                     GradientExchange(*self, cpu_backend(), DType::kF32, 10, {0, 5}, options);
                   }),
        "gradient exchange: shares must end with a slice of the 10 elements: at " + std::to_string(kept));
  }
}

TEST(GradientExchange, HasRoomWhereASumBegins) {
  const auto self = make_self_communicator();
  ExchangeOptions options;
  options.micro_batches = 4;  // (0 + 1) + (2 + 3)
  GradientExchange exchange(*self, cpu_backend(), DType::kF32, 10, {0, 4}, options);
  exchange.begin_step();
  const std::vector<bool> begins = {true, false, true, false};
  for (int64_t m = 0; m < 4; ++m) {
    exchange.begin_micro_batch(m);
    for (const int64_t offset : {4, 0}) {
      const Shape shape = offset == 4 ? Shape{2, 3} : Shape{4};
      const Tensor values = Tensor::full(shape, DType::kF32, cpu_backend(), static_cast<double>(m + 1));
      Tensor room = exchange.room(offset, shape);
      ASSERT_EQ(room.defined(), begins[static_cast<size_t>(m)]) << m;
      if (room.defined()) room.assign(values);
      exchange.add(offset, shape.elements(), room.defined() ? room.data() : values.data());
    }
    exchange.end_micro_batch();
  }
  exchange.finish();
  EXPECT_EQ(exchange.result().to_vector<float>(), std::vector<float>(10, 10.0F));
}

TEST(GradientExchange, RefusesCallsOutOfTurn) {
  const auto self = make_self_communicator();
  ExchangeOptions options;
  options.micro_batches = 2;
  GradientExchange exchange(*self, cpu_backend(), DType::kF32, 10, {0, 4}, options);
  const float values[10] = {};
  const auto refusal = [&](const std::function<void()>& work) {
    return failure_of(ErrorKind::kInternal, work);
  };

  EXPECT_EQ(refusal([&] { exchange.add(0, 4, values); }), "gradient exchange: add outside of a micro-batch");
  EXPECT_EQ(refusal([&] { exchange.room(0, Shape{4}); }), "gradient exchange: room outside of a micro-batch");
  EXPECT_EQ(refusal([&] { exchange.begin_micro_batch(0); }),
            "gradient exchange: begin_micro_batch outside of a step or inside of another");
  exchange.begin_step();
  EXPECT_EQ(refusal([&] { exchange.begin_step(); }),
            "gradient exchange: begin_step before the last step was finished");
  EXPECT_EQ(refusal([&] { exchange.begin_micro_batch(1); }),
            "gradient exchange: micro-batch 1 out of turn: rank 0 owns [0, 2), next is 0");
  exchange.begin_micro_batch(0);
  EXPECT_EQ(refusal([&] { exchange.begin_micro_batch(1); }),
            "gradient exchange: begin_micro_batch outside of a step or inside of another");
  EXPECT_EQ(refusal([&] { exchange.add(3, 1, values); }), "gradient exchange: no slice starts at element 3");
  EXPECT_EQ(refusal([&] { exchange.add(0, 5, values); }),
            "gradient exchange: slice at 0: 5 elements, expected 4");
  exchange.add(0, 3, values);
  EXPECT_EQ(refusal([&] { exchange.add(0, 3, values); }),
            "gradient exchange: slice at 0 came twice in a micro-batch");
  exchange.end_micro_batch();
  EXPECT_EQ(refusal([&] { exchange.finish(); }),
            "gradient exchange: finish before all owned micro-batches were added");
  exchange.begin_micro_batch(1);
  EXPECT_EQ(refusal([&] { exchange.add(0, 4, values); }),
            "gradient exchange: slice at 0: 4 elements, expected 3");
  exchange.end_micro_batch();
  EXPECT_EQ(refusal([&] { exchange.begin_micro_batch(2); }),
            "gradient exchange: micro-batch 2 out of turn: rank 0 owns [0, 2), next is 2");
  exchange.finish();
  EXPECT_EQ(refusal([&] { exchange.finish(); }),
            "gradient exchange: finish before all owned micro-batches were added");
  EXPECT_EQ(refusal([&] { exchange.end_micro_batch(); }),
            "gradient exchange: end_micro_batch without begin_micro_batch");
}

TEST(GradientExchange, FailsWhenAWorkerNeverJoins) {
  const auto work = [](Communicator& communicator) {
    if (communicator.rank() == 1) return;
    ExchangeOptions options;
    options.micro_batches = 2;
    GradientExchange exchange(communicator, cpu_backend(), DType::kF32, 2, {0}, options);
    const float values[] = {1.0f, 2.0f};
    exchange.begin_step();
    exchange.begin_micro_batch(0);
    exchange.add(0, 2, values);
    exchange.end_micro_batch();
    exchange.finish();
  };
  EXPECT_EQ(failure_of(ErrorKind::kCommunication, [&] { run_threaded(2, work, 0.2); }),
            "thread 0: not finished");
}

}  // namespace
}  // namespace lockstep::testing
