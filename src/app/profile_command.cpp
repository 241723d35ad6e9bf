// Profile: steps of a run whose kernels are timed one by one, beside the device's speed of copies and
// products.
#include "lockstep/app/profile_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "lockstep/app/results.h"
#include "lockstep/core/error.h"
#include "lockstep/kernels/timed_backend.h"
#include "lockstep/tensor/tensor.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/trainer.h"
#include "lockstep/train/training_job.h"

namespace lockstep {

void add_profile_options(CLI::App& command, ProfileArguments& arguments) {
  command.add_option("--steps", arguments.steps, "that are timed, after three others")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  command.footer(
      "A line a kernel and shape: the time that it takes of a step, and at least would: its bytes at the "
      "speed "
      "of a\ncopy, or its operations at that of a large product, both measured in the same call.\n\n"
      "Example:\n  lockstep profile configs/digits_cnn.toml --device cpu");
}

namespace {

constexpr int kWarmUp = 3;  // the first makes plans and memory, the second may record what the first has seen

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Seconds of a call on the backend's queue: the median of five times `calls` in a row.
double seconds_of_call(Backend& backend, int calls, const std::function<void()>& call) {
  std::vector<double> times;
  for (int round = 0; round < 5; ++round) {
    const std::unique_ptr<Marker> begin = backend.marker(true), end = backend.marker(true);
    begin->set();
    for (int i = 0; i < calls; ++i) call();
    end->set();
    end->wait();
    times.push_back(end->seconds_since(*begin) / calls);
  }
  std::ranges::nth_element(times, times.begin() + 2);
  return times[2];
}

// How fast the device copies and multiplies, found out with arrays that grow until a call takes long enough.
class Ceilings {
 public:
  explicit Ceilings(Backend& backend) : backend_(backend) {
    constexpr int64_t kLeast = int64_t{1} << 20, kMost = int64_t{1} << 29;
    for (int64_t bytes = kLeast; bytes <= kMost; bytes *= 2) {
      const Tensor x = Tensor::zeros({bytes}, DType::kU8, backend);
      Tensor y = x.empty_like();
      const double seconds = seconds_of_call(
          backend, 5, [&] { backend.copy(y.mutable_data(), x.data(), static_cast<size_t>(bytes)); });
      copied_ = 2.0 * static_cast<double>(bytes) / seconds;
      if (seconds > kLongEnough) break;
    }
  }

  double bytes_a_second() const { return copied_; }
  double operations_a_second(DType dtype) {
    const auto known = products_.find(dtype);
    return known != products_.end() ? known->second : products_[dtype] = measure(dtype);
  }
  const std::map<DType, double>& products() const { return products_; }

  // Of a kernel that does so much.
  double floor(const KernelWork& work) {
    const double moving = work.bytes / copied_;
    return work.operations == 0.0 ? moving
                                  : std::max(moving, work.operations / operations_a_second(work.operands));
  }

  // Gives the queue work for so long.
  void occupy(double seconds) {
    const int64_t bytes = int64_t{1} << 26;
    if (!room_.defined()) room_ = Tensor::zeros({2 * bytes}, DType::kU8, backend_);
    const double one = 2.0 * static_cast<double>(bytes) / copied_;
    auto* const memory = static_cast<std::byte*>(room_.mutable_data());
    for (double done = 0.0; done < seconds; done += one)
      backend_.copy(memory, memory + bytes, static_cast<size_t>(bytes));
  }

 private:
  static constexpr double kLongEnough = 2e-3;

  double measure(DType dtype) {
    constexpr int64_t kLeast = 128, kMost = 8192;
    double speed = 0.0;
    for (int64_t extent = kLeast; extent <= kMost; extent *= 2) {
      // Of random numbers: with equal ones products draw less power.
      std::mt19937 generator(1);
      std::vector<double> numbers(static_cast<size_t>(extent));
      for (double& number : numbers) number = static_cast<double>(generator()) * 0x1p-31 - 1.0;
      const Tensor row = Tensor::from({extent}, numbers, backend_).converted(dtype);
      Tensor a = Tensor::empty({extent, extent}, dtype, backend_), c = a.empty_like();
      for (int64_t i = 0; i < extent; ++i) a.view({extent}, i * extent).assign(row);
      MatmulArguments product;
      product.dtype = product.output = dtype;
      product.m = product.n = product.k = extent;
      product.a = product.b = a.data();
      product.c = c.mutable_data();
      const double seconds = seconds_of_call(backend_, 2, [&] { backend_.matmul(product); });
      const auto n = static_cast<double>(extent);
      speed = std::max(speed, 2.0 * n * n * n / seconds);
      if (seconds > kLongEnough) break;
    }
    return speed;
  }

  Backend& backend_;
  double copied_ = 0.0;
  std::map<DType, double> products_;
  Tensor room_;
};

// Gone with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lockstep-profile-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr)
      fail(ErrorKind::kUsage, fmt::format("profile: {} cannot be made", pattern));
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string path() const { return path_; }

 private:
  std::string path_;
};

void print(std::vector<KernelTime> times, Ceilings& ceilings, const std::string& device, double steps,
           double step_seconds) {
  std::ranges::stable_sort(times, [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  double total = 0.0, least = 0.0;
  for (const KernelTime& time : times) {
    total += time.seconds / steps;
    least += ceilings.floor(time.work) * static_cast<double>(time.calls) / steps;
  }
  fmt::print(
      "{}\n\n| kernel | calls a step | us a call | floor, us | of the floor | ms a step | share |\n"
      "|---|---|---|---|---|---|---|\n",
      device);
  for (const KernelTime& time : times) {
    const double floor = ceilings.floor(time.work), calls = static_cast<double>(time.calls);
    const double each = time.seconds / calls, of_step = time.seconds / steps;
    fmt::print("| {} | {:g} | {:.1f} | {:.1f} | {:.2f} | {:.3f} | {:.3f} |\n", time.name, calls / steps,
               1e6 * each, 1e6 * floor, each > 0.0 ? floor / each : 0.0, 1e3 * of_step,
               total > 0.0 ? of_step / total : 0.0);
  }
  fmt::print("| all | | | | {:.2f} | {:.3f} | 1.000 |\n\n", total > 0.0 ? least / total : 0.0, 1e3 * total);
  fmt::print("A step takes {:.3f} ms without these measurements. Copies: {:.1f} GB/s read and written.",
             1e3 * step_seconds, 1e-9 * ceilings.bytes_a_second());
  for (const auto& [dtype, speed] : ceilings.products())
    fmt::print(" Products in {}: {:.2f} TFLOP/s.", name_of(dtype), 1e-12 * speed);
  fmt::print("\n");
  flush_results();
}

}  // namespace

void profile_command(const ProfileArguments& arguments, Configuration& configuration,
                     Communicator& communicator) {
  std::optional<TrainingJob> job;
  std::optional<TemporaryDirectory> directory;
  run_agreed(
      communicator,
      [&] {
        job = read_training_job(configuration);
        if (communicator.rank() == 0) directory.emplace();
      },
      "configuration");
  job->settings.cuda_graph = false;  // nothing within a recording is timed
  TrainOptions options;
  options.output = directory ? directory->path() : std::string(".");
  TimedBackend* timed = nullptr;
  options.backend = [&timed](Backend& chosen) -> Backend& {
    timed = new TimedBackend(chosen);  // tensors that the process keeps may outlive the run
    return *timed;
  };
  Trainer trainer(std::move(*job), options, communicator);
  const int64_t needed = kWarmUp + 2 * arguments.steps;
  if (trainer.total_steps() < needed) {
    fail(ErrorKind::kUsage,
         fmt::format("profile: --steps {} takes {} steps with those before it, the run has {}",
                     arguments.steps, needed, trainer.total_steps()));
  }
  const auto steps = static_cast<double>(arguments.steps);
  for (int i = 0; i < kWarmUp; ++i) trainer.step();
  timed->synchronize();
  const double untimed = seconds_of([&] {
    for (int64_t i = 0; i < arguments.steps; ++i) trainer.step();
    timed->synchronize();
  });
  Ceilings ceilings(*timed);
  for (int64_t i = 0; i < arguments.steps; ++i) {
    // A GPU that waits for the host would count as kernels: the host is given a start.
    if (timed->native_queue() != nullptr) ceilings.occupy(std::min(0.5, 2.0 * untimed / steps));
    timed->start();
    trainer.step();
    timed->stop();
    timed->synchronize();
  }
  if (communicator.rank() == 0) print(timed->times(), ceilings, timed->description(), steps, untimed / steps);
}

}  // namespace lockstep
