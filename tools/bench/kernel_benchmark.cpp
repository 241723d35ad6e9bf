// Memory-bound CPU kernels: bandwidth at 64 MB against memcpy measured in the same run, and the cost of small
// calls.
//
//   kernel_benchmark [--benchmark_filter=large|small] [--threads=N]
//
// `of_copy` is the kernel's bytes a second over those of memcpy of 64 MB by the same number of threads, calls
// and copies alternating, the best of each. Bytes are what the formula must read and write once (for batch
// norm, three passes; for AdamW 28 an element: p, g, m, v read, p, m, v written). With one thread the time is
// the processor's, so that neighbours on a shared machine count as little as possible; with several it is the
// wall's.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {
namespace {

constexpr int64_t kLargeBytes = int64_t{64} << 20;
constexpr int64_t kLarge = kLargeBytes / 4;  // floats

// Device memory with defined contents: small positive values.
class Array {
 public:
  explicit Array(int64_t n) : bytes_(static_cast<size_t>(n) * 4), data_(cpu_backend().allocate(bytes_)) {
    auto* values = static_cast<float*>(data_);
    for (int64_t i = 0; i < n; ++i) values[i] = 0.01f + static_cast<float>(i % 97) * 0.01f;
  }
  ~Array() { cpu_backend().release(data_, bytes_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  operator void*() const { return data_; }  // NOLINT: stands for its pointer

 private:
  size_t bytes_;
  void* data_;
};

// Seconds since some moment.
double now() {
  timespec time{};
  clock_gettime(thread_pool().threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Seconds of one copy of 64 MB by memcpy, an equal share a thread.
double time_copy() {
  static const Array x(kLarge), y(kLarge);
  const double start = now();
  parallel_ranges(kLargeBytes, kLargeBytes / thread_pool().threads(), [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(static_cast<void*>(y)) + begin,
                static_cast<const char*>(static_cast<void*>(x)) + begin, static_cast<size_t>(end - begin));
  });
  return now() - start;
}

// Calls alternate with copies, so that both see the same neighbours on the machine; the best of each is
// compared.
void report_large(const std::string& name, double bytes, const std::function<void()>& call) {
  benchmark::RegisterBenchmark(("large/" + name).c_str(), [=](benchmark::State& state) {
    call();
    time_copy();
    double best = 1e9, best_copy = 1e9;
    for (auto _ : state) {
      const double start = now();
      call();
      const double seconds = now() - start;
      state.SetIterationTime(seconds);
      best = std::min(best, seconds);
      best_copy = std::min(best_copy, time_copy());
    }
    state.counters["best_GB/s"] = bytes / best * 1e-9;
    state.counters["of_copy"] = bytes / best / (2.0 * kLargeBytes / best_copy);
  })->UseManualTime();
}

// One iteration is a batch of calls; `best_ns` is the fastest batch's time a call.
void report_small(const std::string& name, const std::function<void()>& call) {
  benchmark::RegisterBenchmark(("small/" + name).c_str(), [=](benchmark::State& state) {
    constexpr int kBatch = 100;
    double best = 1e9;
    for (auto _ : state) {
      const double start = now();
      for (int i = 0; i < kBatch; ++i) call();
      const double seconds = now() - start;
      state.SetIterationTime(seconds);
      best = std::min(best, seconds);
    }
    state.counters["best_ns"] = best / kBatch * 1e9;
  })->UseManualTime();
}

BroadcastPlan plan_of(std::vector<int64_t> extents, std::vector<int64_t> a, std::vector<int64_t> b) {
  BroadcastPlan plan;
  plan.rank = static_cast<int>(extents.size());
  std::copy(extents.begin(), extents.end(), plan.extents);
  std::copy(a.begin(), a.end(), plan.strides_a);
  std::copy(b.begin(), b.end(), plan.strides_b);
  return plan;
}

UpdateArguments update_of(int64_t n, void* p, void* g, void* m, void* v) {
  UpdateArguments arguments;
  arguments.n = n;
  arguments.parameters = p;
  arguments.gradients = g;
  arguments.slots[0] = m;
  arguments.slots[1] = v;
  const double scalars[] = {1e-9, 0.01, 0.9, 0.999, 1e-8, 0.1, 0.001};
  std::copy(std::begin(scalars), std::end(scalars), arguments.scalars);
  return arguments;
}

void register_large() {
  Backend& backend = cpu_backend();
  constexpr DType kF32 = DType::kF32;
  static const Array x(kLarge), y(kLarge), z(kLarge), w(kLarge);
  static const Array row(1 << 20), row2(1 << 20), row3(1 << 20), row4(1 << 20);
  static std::vector<double> sums(static_cast<size_t>(kLarge / Backend::kNormBlock));
  static const std::vector<int32_t> labels(static_cast<size_t>(kLarge / 10 + 1), 3);
  static const std::vector<int32_t> indices = [] {
    std::vector<int32_t> values(static_cast<size_t>(kLarge / 768));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * 7919 % values.size());
    return values;
  }();
  const double n = kLarge, one = 4.0 * n, two = 8.0 * n, three = 12.0 * n;

  report_large("copy", two, [&] { backend.copy(y, x, kLargeBytes); });
  report_large("fill", one, [&] { backend.fill(kF32, kLarge, y, 1.0); });
  report_large("cast_f32_f64", 1.5 * one, [&] { backend.cast(kF32, DType::kF64, kLarge / 2, x, y); });
  report_large("scale_shift", two, [&] { backend.scale_shift(kF32, kLarge, x, 2.0, 1.0, y); });
  report_large("accumulate", three, [&] { backend.accumulate(kF32, kLarge, x, y); });
  const std::pair<const char*, UnaryOp> unaries[] = {
      {"relu", UnaryOp::kRelu},        {"exp", UnaryOp::kExp},   {"log", UnaryOp::kLog},
      {"tanh", UnaryOp::kTanh},        {"gelu", UnaryOp::kGelu}, {"sigmoid", UnaryOp::kSigmoid},
      {"softplus", UnaryOp::kSoftplus}};
  for (const auto& [name, op] : unaries) {
    const UnaryOp current = op;
    report_large(name, two, [&backend, current] { backend.unary(current, kF32, kLarge, x, y); });
  }
  report_large("relu_backward", three,
               [&] { backend.unary_backward(UnaryOp::kRelu, kF32, kLarge, x, y, z, w); });
  report_large("gelu_backward", three,
               [&] { backend.unary_backward(UnaryOp::kGelu, kF32, kLarge, x, y, z, w); });
  static const BroadcastPlan flat = plan_of({kLarge}, {1}, {1});
  static const BroadcastPlan bias = plan_of({kLarge / 512, 512}, {512, 1}, {0, 1});
  report_large("add", three, [&] { backend.binary(BinaryOp::kAdd, kF32, flat, x, z, y); });
  report_large("add_bias", two, [&] { backend.binary(BinaryOp::kAdd, kF32, bias, x, row, y); });
  report_large("sum_all", one, [&] { backend.reduce(ReduceOp::kSum, kF32, 1, kLarge, 1, x, row); });
  report_large("sum_rows_768", one,
               [&] { backend.reduce(ReduceOp::kSum, kF32, kLarge / 768, 768, 1, x, row); });
  report_large("sum_columns_10", one,
               [&] { backend.reduce(ReduceOp::kSum, kF32, 1, kLarge / 10, 10, x, row); });
  report_large("sum_columns_64", one,
               [&] { backend.reduce(ReduceOp::kSum, kF32, 1, kLarge / 64, 64, x, row); });
  report_large("sum_columns_50257", one,
               [&] { backend.reduce(ReduceOp::kSum, kF32, 1, kLarge / 50257, 50257, x, row); });
  report_large("block_square_sums", one, [&] { backend.block_square_sums(kF32, kLarge, x, sums.data()); });
  report_large("all_finite", one, [&] { benchmark::DoNotOptimize(backend.all_finite(kF32, kLarge, x)); });
  report_large("transpose_4096", two, [&] {
    const int64_t extents[] = {4096, 4096};
    const int permutation[] = {1, 0};
    backend.permute(4, 2, extents, permutation, x, y);
  });
  report_large("permute_heads", two, [&] {  // (B, T, H, D) -> (B, H, T, D)
    const int64_t extents[] = {kLarge / (512 * 16 * 64), 512, 16, 64};
    const int permutation[] = {0, 2, 1, 3};
    backend.permute(4, 4, extents, permutation, x, y);
  });
  for (int64_t columns : {int64_t{10}, int64_t{768}, int64_t{50257}}) {
    const int64_t rows = kLarge / columns;
    const double bytes = 4.0 * static_cast<double>(rows * columns);
    const std::string suffix = fmt::format("_{}", columns);
    report_large("softmax" + suffix, 2 * bytes,
                 [=, &backend] { backend.softmax(false, kF32, rows, columns, x, y); });
    report_large("cross_entropy" + suffix, 2 * bytes, [=, &backend] {
      backend.cross_entropy(kF32, rows, columns, x, labels.data(), nullptr, w, y);
    });
    report_large("cross_entropy_backward" + suffix, 2 * bytes, [=, &backend] {
      backend.cross_entropy_backward(kF32, rows, columns, x, labels.data(), nullptr, z, y);
    });
  }
  const NormArguments layer{.rows = kLarge / 768, .columns = 768, .gamma = row};
  report_large("layer_norm_768", two, [&] { backend.norm(layer, x, nullptr, row2, nullptr, y, row3, row4); });
  report_large("layer_norm_backward_768", three,
               [&] { backend.norm_backward(layer, x, row3, row4, z, nullptr, y, nullptr, row2, w); });
  for (int64_t channels : {int64_t{16}, int64_t{64}}) {
    const int64_t rows = kLarge / channels;
    const std::string suffix = fmt::format("_{}", channels);
    report_large("batch_norm" + suffix, 4 * one, [=, &backend] {  // x three times, y once
      backend.batch_norm(kF32, rows, channels, x, row, row2, 1e-5, y, row3, row4, w);
    });
    report_large("batch_norm_backward" + suffix, 5 * one, [=, &backend] {  // x and dy twice, dx once
      backend.batch_norm_backward(kF32, rows, channels, x, row, row3, row4, z, y, row2, w);
    });
  }
  report_large("embedding_768", two, [&] {
    backend.embedding(kF32, static_cast<int64_t>(indices.size()), 768, x, indices.data(), y);
  });
  report_large("embedding_backward_768", 4 * one, [&] {  // dy once, the table filled, read and written
    const int64_t count = static_cast<int64_t>(indices.size());
    backend.embedding_backward(kF32, count, count, 768, indices.data(), x, false, y);
  });
  report_large("dropout_mask", one, [&] { backend.dropout_mask(kF32, kLarge, {{1, 2}, 3, 4, 5}, 0.1, y); });
  report_large("sgd", three, [&] { backend.update(UpdateFormula::kSgd, update_of(kLarge, x, z, w, y)); });
  report_large("momentum", 5 * one,
               [&] { backend.update(UpdateFormula::kMomentumClassical, update_of(kLarge, x, z, w, y)); });
  report_large("adamw", 7 * one,
               [&] { backend.update(UpdateFormula::kAdamW, update_of(kLarge, x, z, w, y)); });
  static const Array copy(kLarge / 2);  // 16-bit elements
  report_large("adamw_bf16_copy", 7.5 * one, [&] {
    UpdateArguments arguments = update_of(kLarge, x, z, w, y);
    arguments.copy = copy;
    backend.update(UpdateFormula::kAdamW, arguments);
  });
}

// Calls of a training step of a 64-128-10 network at batch 32.
void register_small() {
  Backend& backend = cpu_backend();
  constexpr DType kF32 = DType::kF32;
  static const Array a(16384), b(16384), c(16384), d(16384), e(16384);
  static const std::vector<int32_t> labels(32, 3);
  static const BroadcastPlan bias = plan_of({32, 128}, {128, 1}, {0, 1});
  static const BroadcastPlan narrow = plan_of({32, 10}, {10, 1}, {0, 1});
  static std::vector<double> sums(8);
  report_small("relu_1", [&] { backend.unary(UnaryOp::kRelu, kF32, 1, a, b); });
  report_small("relu_32x128", [&] { backend.unary(UnaryOp::kRelu, kF32, 4096, a, b); });
  report_small("relu_backward_32x128",
               [&] { backend.unary_backward(UnaryOp::kRelu, kF32, 4096, a, b, c, d); });
  report_small("gelu_32x128", [&] { backend.unary(UnaryOp::kGelu, kF32, 4096, a, b); });
  report_small("add_bias_32x128", [&] { backend.binary(BinaryOp::kAdd, kF32, bias, a, b, c); });
  report_small("add_bias_32x10", [&] { backend.binary(BinaryOp::kAdd, kF32, narrow, a, b, c); });
  report_small("cross_entropy_32x10",
               [&] { backend.cross_entropy(kF32, 32, 10, a, labels.data(), nullptr, b, c); });
  report_small("cross_entropy_backward_32x10",
               [&] { backend.cross_entropy_backward(kF32, 32, 10, a, labels.data(), nullptr, b, c); });
  report_small("sum_columns_32x128", [&] { backend.reduce(ReduceOp::kSum, kF32, 1, 32, 128, a, b); });
  report_small("sum_columns_32x10", [&] { backend.reduce(ReduceOp::kSum, kF32, 1, 32, 10, a, b); });
  report_small("sum_32", [&] { backend.reduce(ReduceOp::kSum, kF32, 1, 32, 1, a, b); });
  report_small("block_square_sums_9610", [&] { backend.block_square_sums(kF32, 9610, a, sums.data()); });
  report_small("all_finite_9610", [&] { benchmark::DoNotOptimize(backend.all_finite(kF32, 9610, a)); });
  report_small("adam_9610", [&] { backend.update(UpdateFormula::kAdam, update_of(9610, a, b, c, d)); });
  report_small("batch_norm_4096x16", [] {
    static const Array x(65536), y(65536), v(1024);
    cpu_backend().batch_norm(kF32, 4096, 16, x, a, b, 1e-5, y, c, v, e);
  });
  report_small("max_pool_64x8x8x16", [] {
    static const Array x(65536), y(65536);
    static std::vector<int32_t> where(65536);
    PoolArguments p;
    p.n = 64, p.h = p.w = 8, p.c = 16, p.kh = p.kw = p.stride_h = p.stride_w = 2, p.oh = p.ow = 4;
    cpu_backend().max_pool(p, x, y, where.data());
  });
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--threads=", 0) == 0) {
      lockstep::set_threads(std::atoi(argument.c_str() + 10));
    } else {
      rest.push_back(argv[i]);
    }
  }
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
  lockstep::register_large();
  lockstep::register_small();
  std::printf("%s, %d thread(s)\n", lockstep::cpu_backend().description().c_str(),
              lockstep::thread_pool().threads());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
