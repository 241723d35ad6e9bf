// Measures the gradient exchange, lockstep and library mode, against a bare MPI_Allreduce of the same fp32
// elements.
//
//   mpirun -np 2 build/release/bin/reduction_benchmark [largest size in MiB, default 128]
//
// Each worker brings one micro-batch. Every side starts from the gradient as a backward sweep leaves it, in
// slices outside of the array that is reduced, and ends with the sum in one array. The exchange gathers the
// slices in add(); MPI_Allreduce is timed twice: after the same copy, in place, as a trainer has to call it
// ("copy, in place"), and on its own, out of place, from slices that happen to lie in one array already
// ("bare"). The sides alternate; a repetition takes as long as its slowest worker; the table shows medians.
#include <fmt/format.h>

#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/parallel/gradient_exchange.h"

namespace {

using namespace lockstep;

constexpr int64_t kSliceElements = 1 << 20;  // a 1024 x 1024 weight matrix

// Nanoseconds that `work` takes on this worker.
int64_t time_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<int64_t> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return static_cast<double>(values[values.size() / 2]);
}

class Side {
 public:
  Side(Communicator& communicator, ReductionMode mode, const std::vector<float>& gradient)
      : gradient_(gradient) {
    const auto n = static_cast<int64_t>(gradient.size());
    for (int64_t offset = 0; offset < n; offset += kSliceElements) offsets_.push_back(offset);
    ExchangeOptions options;
    options.micro_batches = communicator.world_size();
    options.mode = mode;
    rank_ = communicator.rank();
    exchange_ =
        std::make_unique<GradientExchange>(communicator, cpu_backend(), DType::kF32, n, offsets_, options);
  }

  void step() {
    const auto n = static_cast<int64_t>(gradient_.size());
    exchange_->begin_step();
    exchange_->begin_micro_batch(rank_);
    for (size_t i = offsets_.size(); i-- > 0;) {
      exchange_->add(offsets_[i], std::min(kSliceElements, n - offsets_[i]), gradient_.data() + offsets_[i]);
    }
    exchange_->end_micro_batch();
    exchange_->finish();
  }

 private:
  const std::vector<float>& gradient_;
  std::vector<int64_t> offsets_;
  int rank_ = 0;
  std::unique_ptr<GradientExchange> exchange_;
};

}  // namespace

int main(int argc, char** argv) {
  const int64_t largest = (argc > 1 ? std::atoll(argv[1]) : 128) << 20;
  const auto communicator = make_mpi_communicator({});
  if (communicator->rank() == 0) {
    fmt::print(
        "{}, times in microseconds; ratios above 1: lockstep is faster\n"
        "{:>12} {:>12} {:>12} {:>24} {:>24}\n{:>38} {:>24} {:>24}\n",
        communicator->description(), "bytes", "lockstep", "library", "MPI_Allreduce, ratio",
        "MPI_Allreduce, ratio", "", "copy, in place", "bare");
  }
  // By factors of four, and the largest in any case.
  for (int64_t bytes = 1024; bytes <= largest;
       bytes = bytes < largest ? std::min(bytes * 4, largest) : largest + 1) {
    const auto n = static_cast<size_t>(bytes) / sizeof(float);
    // Every side has its own array for the sum, so that none finds it in the cache thanks to another.
    std::vector<float> gradient(n), copied(n), bare(n);
    for (size_t i = 0; i < n; ++i) gradient[i] = static_cast<float>(i % 1000) * 1e-3f;
    Side lockstep_side(*communicator, ReductionMode::kLockstep, gradient);
    Side library_side(*communicator, ReductionMode::kLibrary, gradient);
    const std::vector<std::function<void()>> sides = {
        [&] { lockstep_side.step(); }, [&] { library_side.step(); },
        [&] {
          for (size_t end = n; end > 0;) {
            const size_t begin = (end - 1) / kSliceElements * kSliceElements;
            std::copy(gradient.begin() + static_cast<std::ptrdiff_t>(begin),
                      gradient.begin() + static_cast<std::ptrdiff_t>(end),
                      copied.begin() + static_cast<std::ptrdiff_t>(begin));
            end = begin;
          }
          MPI_Allreduce(MPI_IN_PLACE, copied.data(), static_cast<int>(n), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        },
        [&] {
          MPI_Allreduce(gradient.data(), bare.data(), static_cast<int>(n), MPI_FLOAT, MPI_SUM,
                        MPI_COMM_WORLD);
        }};
    const int repetitions = static_cast<int>(std::clamp<int64_t>((int64_t{1} << 30) / bytes, 25, 501));
    std::vector<std::vector<int64_t>> times(sides.size());
    for (int repetition = -2; repetition < repetitions; ++repetition) {  // the first two warm up
      for (size_t side = 0; side < sides.size(); ++side) {
        communicator->barrier("start");
        const int64_t time = time_of(sides[side]);
        if (repetition >= 0) times[side].push_back(time);
      }
    }
    std::vector<double> medians;
    for (std::vector<int64_t>& of_side : times) {
      communicator->all_reduce_max(of_side.data(), repetitions, "times")->wait();
      medians.push_back(median(of_side) * 1e-3);
    }
    if (communicator->rank() == 0) {
      fmt::print("{:>12} {:>12.1f} {:>12.1f} {:>18.1f} {:>5.2f} {:>18.1f} {:>5.2f}\n", bytes, medians[0],
                 medians[1], medians[2], medians[2] / medians[0], medians[3], medians[3] / medians[0]);
      std::fflush(stdout);
    }
  }
  return 0;
}
