// The communicator contract and the gradient exchange between processes: start it with mpirun, giving the
// number of workers and what moves arrays between them: mpi (host memory), nccl or staged (GPUs; all workers
// take the first).
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/communicator_contract.h"
#include "lockstep/comm/device_communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "parallel/exchange_check.h"

namespace lockstep::testing {
namespace {

std::unique_ptr<Communicator> world;
Backend* backend = nullptr;
std::string arrays = "mpi";  // what moves them

World world_of_processes() {
  return {"world", [](const std::function<void(Communicator&)>& work) { work(world->device()); }, backend};
}

INSTANTIATE_TEST_SUITE_P(Processes, CommunicatorContract, ::testing::Values(world_of_processes()),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(MpiCommunicator, IsWhatALaunchedProcessGetsAndSaysSo) {
  EXPECT_TRUE(launched_by_mpi());
  EXPECT_EQ(world->description().rfind("mpi: " + std::to_string(world->world_size()) + " workers, ", 0), 0u);
}

TEST(MpiCommunicator, KnowsItsPlaceOnTheHost) {
  EXPECT_EQ(world->host_place().rank, world->rank());  // all are on this one
  EXPECT_EQ(world->host_place().workers, world->world_size());
}

TEST(MpiCommunicator, ExistsOnceInAProcess) {
  EXPECT_THROW(make_mpi_communicator({}), Error);
}

TEST(MpiCommunicator, SumsOnlyFloats) {
  float data[1] = {};
  EXPECT_THROW(world->all_reduce_sum(data, 1, DType::kBF16, "bf16"), Error);
}

// Which collective is refused must not cost the others a sequence number.
TEST(MpiCommunicator, GoesOnAfterARefusedCall) {
  float data[1] = {1.0f};
  if (world->rank() == 0) {
    EXPECT_THROW(world->all_reduce_sum(data, 1, DType::kBF16, "bf16"), Error);
  }
  world->all_reduce_sum(data, 1, DType::kF32, "fp32")->wait();
  EXPECT_EQ(data[0], static_cast<float>(world->world_size()));
  std::vector<float> all(static_cast<size_t>(world->world_size()));
  world->all_gather(data, sizeof(float), all.data(), "gather")->wait();
  EXPECT_EQ(all.back(), data[0]);
}

TEST(MpiCommunicator, ProgressesWhileOnlyTheOtherSideWaits) {
  // Rank 0 polls now and then between stretches of work, as a backward sweep does; the others wait.
  std::vector<float> data(1 << 20, 1.0f);
  const auto request = world->all_reduce_sum(data.data(), 1 << 20, DType::kF32, "overlap");
  if (world->rank() == 0) {
    while (!request->test()) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  request->wait();
  EXPECT_EQ(data.front(), static_cast<float>(world->world_size()));
  EXPECT_EQ(data.back(), static_cast<float>(world->world_size()));
}

ExchangeCase case_of(int64_t micro_batches) {
  ExchangeCase c;
  c.micro_batches = micro_batches;
  c.slices = {0};
  for (int64_t i = 1; i < 12; ++i) c.slices.push_back(c.slices.back() + 1 + (i * i * i * 977) % 20000);
  c.extent = c.slices.back() + 4321;
  return c;
}

// The workers as if they were on several hosts.
class OnHosts final : public Communicator {
 public:
  explicit OnHosts(std::vector<std::string> hosts) : hosts_(std::move(hosts)) {}
  int rank() const override { return world->rank(); }
  int world_size() const override { return world->world_size(); }
  HostPlace host_place() const override { return world->host_place(); }
  std::string description() const override { return world->description(); }
  std::string host_of(int rank) const override { return hosts_[static_cast<size_t>(rank)]; }
  std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                    std::string label) override {
    return world->exchange(std::move(sends), std::move(receives), std::move(label));
  }
  std::unique_ptr<Request> all_reduce_sum(void* data, int64_t n, DType dtype, std::string label) override {
    return world->all_reduce_sum(data, n, dtype, std::move(label));
  }
  std::unique_ptr<Request> all_reduce_max(int64_t* data, int64_t n, std::string label) override {
    return world->all_reduce_max(data, n, std::move(label));
  }
  std::unique_ptr<Request> all_gather(const void* data, size_t bytes, void* received,
                                      std::string label) override {
    return world->all_gather(data, bytes, received, std::move(label));
  }
  std::unique_ptr<Request> broadcast(void* data, size_t bytes, int root, std::string label) override {
    return world->broadcast(data, bytes, root, std::move(label));
  }
  void barrier(std::string label) override { world->barrier(std::move(label)); }
  std::unique_ptr<Request> until(std::function<bool()> came, std::string label) override {
    return world->until(std::move(came), std::move(label));
  }
  [[noreturn]] void abort(int exit_code) override {
    world->abort(exit_code);
    std::abort();  // not reached, but compilers forget what virtual functions promise
  }

 private:
  std::vector<std::string> hosts_;
};

TEST(GradientExchangeBetweenProcesses, EqualsTheTreeOnAnyHosts) {
  if (arrays != "mpi") GTEST_SKIP() << "of arrays in host memory";
  for (const std::vector<std::string>& layout : std::vector<std::vector<std::string>>{{"a", "b", "c", "d"},
                                                                                      {"a", "a", "b", "b"},
                                                                                      {"a", "b", "b", "b"},
                                                                                      {"a", "a", "a", "b"},
                                                                                      {"a", "b", "a", "b"}}) {
    OnHosts hosts(layout);
    for (const int64_t bucket_bytes : {int64_t{1}, int64_t{25} << 20}) {
      ExchangeCase c = case_of(world->world_size() + 3);
      c.bucket_bytes = bucket_bytes;
      if (bucket_bytes > 1 && layout[1] == "a" && layout[2] == "b") {  // several pieces
        c.slices.push_back(1000001);
        c.extent = 2000017;
      }
      const ExchangeData<float> data(c);
      check_exchange<float>(hosts, *backend, c, data);
      c.shares = striped_shares(c.slices[10], world->world_size());
      check_exchange<float>(hosts, *backend, c, data);
    }
  }
}

// One worker gets no memory that others could see.
TEST(GradientExchangeBetweenProcesses, GoesByMessagesWhereMemoryIsNotShared) {
  if (arrays != "mpi" || world->world_size() == 1) GTEST_SKIP() << "of several workers in host memory";
  std::vector<std::string> warnings;
  set_log([&](LogLevel level, const std::string& text) {
    if (level == LogLevel::kWarning) warnings.push_back(text);
  });
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 1 << 16;
  if (world->rank() == 1) ::setrlimit(RLIMIT_FSIZE, &small);
  const ExchangeCase c = case_of(world->world_size() + 3);
  check_exchange<float>(*world, *backend, c, ExchangeData<float>(c));
  ::setrlimit(RLIMIT_FSIZE, &before);
  set_log(nullptr);
  ASSERT_EQ(warnings.size(), world->rank() == 1 ? 1u : 0u);
  if (warnings.empty()) return;
  EXPECT_NE(warnings.front().find(" exchange gradients by messages, since rank 1 shares no memory with the "
                                  "others: "),
            std::string::npos)
      << warnings.front();
}

TEST(DeviceCommunicator, SumsOnlyFloats) {
  EXPECT_THROW(world->device().all_reduce_sum(nullptr, 0, DType::kBF16, "bf16"), Error);
}

TEST(DeviceCommunicator, SeesWhatWasIssuedBeforeAndIsSeenByWhatIsIssuedAfter) {
  // Without a word from the host in between, a sum goes around: what is sent is the result of kernels, what
  // has come goes into kernels, and buffers are used again at once.
  Backend& lane = backend->lane();
  const int64_t n = 100'000;
  const int next = (world->rank() + 1) % world->world_size();
  const int previous = (world->rank() + world->world_size() - 1) % world->world_size();
  Tensor sum = Tensor::full({n}, DType::kF32, *backend, world->rank());
  Tensor sent = sum.clone(), received = sum.empty_like();
  for (int hop = 1; hop < world->world_size(); ++hop) {
    lane.wait_for(*backend);
    world->device()
        .exchange({{next, sent.data(), sent.bytes()}},
                  {{previous, received.mutable_data(), received.bytes()}}, "hop")
        ->wait();
    lane.accumulate(DType::kF32, n, received.data(), sum.mutable_data());
    backend->wait_for(lane);
    sent.assign(received);
    backend->fill(DType::kF32, n, received.mutable_data(), -1e9);
  }
  const int64_t last = world->world_size() - 1;
  EXPECT_EQ(sum.to_vector<float>(),
            std::vector<float>(static_cast<size_t>(n), static_cast<float>(last * (last + 1) / 2)));
}

TEST(GradientExchangeBetweenProcesses, EqualsTheTreeWhateverTheBuckets) {
  for (int64_t m = world->world_size(); m <= world->world_size() + 5; ++m) {
    for (const int64_t bucket_bytes : {int64_t{1}, int64_t{100000}, int64_t{25} << 20}) {
      ExchangeCase c = case_of(m);
      c.bucket_bytes = bucket_bytes;
      check_exchange<float>(*world, *backend, c, ExchangeData<float>(c));
    }
  }
}

TEST(GradientExchangeBetweenProcesses, EqualsTheTreeInDoublePrecision) {
  ExchangeCase c = case_of(world->world_size() + 3);
  check_exchange<double>(*world, *backend, c, ExchangeData<double>(c));
}

TEST(GradientExchangeBetweenProcesses, CutsLargeBucketsIntoPiecesWithoutChangingBits) {
  ExchangeCase c = case_of(world->world_size());
  c.slices.push_back(2000001);
  c.extent = 3000017;
  check_exchange<float>(*world, *backend, c, ExchangeData<float>(c));
}

TEST(GradientExchangeBetweenProcesses, LeavesEachWorkerTheSumsOfItsShares) {
  ExchangeCase c = case_of(world->world_size() + 3);
  for (const std::vector<Share>& shares : {striped_shares(c.slices[10], world->world_size()),
                                           whole_shares(c.slices, c.extent, world->world_size())}) {
    c.shares = shares;
    check_exchange<float>(*world, *backend, c, ExchangeData<float>(c));
  }
}

// The parts of blocks and arrays that travel between processes.
TEST(ParameterShardsBetweenProcesses, NormBlocksAndGatheredArraysAreThoseOfOneWorker) {
  const std::vector<float> values = rough_values<float>(700'000, 3);
  const std::unique_ptr<Communicator> self = make_self_communicator();
  const std::vector<double> expected = ParameterShards(*self, {{{0, 700'000}, 0}})
                                           .block_square_sums(Tensor::from(Shape{700'000}, values, *backend))
                                           .to_vector<double>();
  for (const std::vector<Share>& shares :
       {striped_shares(700'000, world->world_size()),
        whole_shares(std::vector<int64_t>{0, 64, 5000, 300'032, 400'000}, 700'000, world->world_size())}) {
    const ParameterShards shards(*world, shares);
    Tensor array = Tensor::full({700'000}, DType::kF32, *backend, NAN);
    for (const ElementRange& range : shards.mine()) {
      array.view({range.size()}, range.begin)
          .assign(Tensor::from(Shape{range.size()},
                               std::span<const float>(values).subspan(range.begin, range.size()), *backend));
    }
    EXPECT_TRUE(same_bits<double>(shards.block_square_sums(array).to_vector<double>(), expected));
    shards.gather(array, "test");
    EXPECT_TRUE(same_bits<float>(array.to_vector<float>(), values));
  }
}

TEST(GradientExchangeBetweenProcesses, LibraryModeAgreesWithinRounding) {
  ExchangeCase c = case_of(world->world_size() + 3);
  c.mode = ReductionMode::kLibrary;
  c.bucket_bytes = 100000;
  check_exchange<float>(*world, *backend, c, ExchangeData<float>(c));
}

TEST(GradientExchangeBetweenProcesses, RefusesMoreWorkersThanMicroBatches) {
  if (world->world_size() == 1) GTEST_SKIP() << "needs two workers";
  ExchangeOptions options;
  options.micro_batches = world->world_size() - 1;
  EXPECT_THROW(GradientExchange(*world, *backend, DType::kF32, 4, {0}, options), Error);
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  lockstep::CommunicatorOptions options;
  options.timeout_seconds = 30.0;
  lockstep::testing::world = lockstep::make_communicator(options);
  if (argc > 2) lockstep::testing::arrays = argv[2];
  const std::string arrays = lockstep::testing::arrays;
  lockstep::testing::backend = arrays == "mpi" ? &lockstep::cpu_backend() : &lockstep::cuda_backend(0);
  void* const queue = lockstep::testing::backend->lane().native_queue();
  if (arrays == "nccl") {
    lockstep::testing::world->use_device(
        lockstep::make_nccl_communicator(*lockstep::testing::world, queue, options));
  } else if (arrays == "staged") {
    lockstep::testing::world->use_device(
        lockstep::make_staged_communicator(*lockstep::testing::world, queue));
  }
  const int expected = argc > 1 ? std::stoi(argv[1]) : lockstep::testing::world->world_size();
  if (lockstep::testing::world->world_size() != expected) {
    std::fprintf(stderr, "%d workers, expected %d\n", lockstep::testing::world->world_size(), expected);
    return 1;
  }
  // Rank 0 reports; of the others failures are enough.
  ::testing::GTEST_FLAG(brief) = lockstep::testing::world->rank() != 0;
  ::testing::InitGoogleTest(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  lockstep::testing::world.reset();
  return failed;
}
