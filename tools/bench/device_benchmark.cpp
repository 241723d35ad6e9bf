// Memory-bound kernels against the device's own copy bandwidth, matrix products and attention, on the CPU or
// a GPU.
//
// Usage: device_benchmark [cpu|cuda] [MiB]   (default cpu 64). MiB: size of each array. A row: bytes read and
// written over time, as a share of what a copy of one array reaches in the same run; products: operations
// over time. Where a library proposes several algorithms for a product, with the first of them and with the
// one that tuning chooses, and how fast these are in comparison to the fastest in the same run. With arrays
// of less than 16 MiB products and attention are tiny: a rehearsal.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/half_precision.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/plan_table.h"

namespace {

using namespace lockstep;  // NOLINT: a program, not a header

// n elements of the backend's memory: all `value`, or else normally distributed ones. With the same number
// everywhere branches never part, and products draw less power.
class Array {
 public:
  Array(Backend& backend, DType dtype, int64_t n, std::optional<double> value = std::nullopt)
      : backend_(backend), bytes_(static_cast<size_t>(n) * size_of(dtype)), data_(backend.allocate(bytes_)) {
    if (data_ == nullptr)
      fail(ErrorKind::kUsage, fmt::format("device_benchmark: no memory for {} bytes", bytes_));
    if (value) {
      backend.fill(dtype, n, data_, *value);
      return;
    }
    constexpr int64_t kNumbers = 1 << 20;
    static const std::vector<float> numbers = [] {
      std::mt19937 generator(1);
      std::normal_distribution<float> normal;
      std::vector<float> drawn(kNumbers);
      for (float& number : drawn) number = normal(generator);
      return drawn;
    }();
    std::vector<std::byte> stored(kNumbers * size_of(dtype));
    cpu_backend().cast(DType::kF32, dtype, kNumbers, numbers.data(), stored.data());
    for (size_t at = 0; at < bytes_; at += stored.size())
      backend.copy_from_host(static_cast<char*>(data_) + at, stored.data(),
                             std::min(stored.size(), bytes_ - at));
  }
  ~Array() { backend_.release(data_, bytes_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  operator void*() const { return data_; }  // NOLINT: stands for its memory

 private:
  Backend& backend_;
  size_t bytes_;
  void* data_;
};

// A call, again and again in batches of at least 10 ms. The host waits once a batch. Where calls can be
// recorded, a batch replays what was: the host would be slower than a small kernel.
class Batch {
 public:
  Batch(Backend& backend, const std::function<void()>& call) : backend_(backend) {
    call();
    const double once = seconds_of([&] { call(); });
    calls_ = std::clamp(static_cast<int>(0.01 / once), 1, 1000);
    run_ = [this, call] {
      for (int i = 0; i < calls_; ++i) call();
    };
    if (!backend.begin_recording()) return;
    run_();
    recording_ = backend.end_recording();
    run_ = [this] { recording_->replay(); };
    run_();
  }
  // Of one call.
  double seconds() const { return seconds_of(run_) / calls_; }

 private:
  double seconds_of(const std::function<void()>& work) const {
    backend_.synchronize();
    const auto start = std::chrono::steady_clock::now();
    work();
    backend_.synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  Backend& backend_;
  int calls_ = 1;
  std::unique_ptr<Recording> recording_;
  std::function<void()> run_;
};

// Medians over seven batches of each, in turns, so that a clock that changes changes for all.
std::vector<double> seconds_of(const std::vector<std::unique_ptr<Batch>>& batches) {
  std::vector<std::vector<double>> rounds(batches.size());
  for (int round = 0; round < 7; ++round)
    for (size_t i = 0; i < batches.size(); ++i) rounds[i].push_back(batches[i]->seconds());
  std::vector<double> medians;
  for (std::vector<double>& times : rounds) {
    std::nth_element(times.begin(), times.begin() + 3, times.end());
    medians.push_back(times[3]);
  }
  return medians;
}

double seconds_of(Backend& backend, const std::function<void()>& call) {
  std::vector<std::unique_ptr<Batch>> batches;
  batches.push_back(std::make_unique<Batch>(backend, call));
  return seconds_of(batches).front();
}

struct Bandwidth {
  Backend& backend;
  double copy = 0;  // bytes a second

  void row(const std::string& name, DType dtype, double bytes, const std::function<void()>& call) {
    const double rate = bytes / seconds_of(backend, call);
    if (copy == 0) copy = rate;
    fmt::print("| {} | {} | {:.1f} GB/s | {:.2f} |\n", name, name_of(dtype), rate * 1e-9, rate / copy);
    std::fflush(stdout);
  }
};

void memory_bound(Backend& backend, int64_t array_bytes) {
  fmt::print("| kernel | type | read and written | of the copy |\n|---|---|---|---|\n");
  Bandwidth table{backend};
  {
    const Array x(backend, DType::kF32, array_bytes / 4), y(backend, DType::kF32, array_bytes / 4);
    table.row("copy", DType::kU8, 2.0 * static_cast<double>(array_bytes),
              [&] { backend.copy(y, x, static_cast<size_t>(array_bytes)); });
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto size = static_cast<int64_t>(size_of(dtype));
    constexpr int64_t columns = 1024;
    const int64_t rows = array_bytes / size / columns, n = rows * columns;
    const double bytes = static_cast<double>(n * size);
    const DType wide = accumulation_type(dtype);
    const Array x(backend, dtype, n), y(backend, dtype, n), z(backend, dtype, n), w(backend, dtype, n);
    const Array gamma(backend, wide, columns), beta(backend, wide, columns), mean(backend, wide, rows),
        rstd(backend, wide, rows), dgamma(backend, wide, columns), dbeta(backend, wide, columns);
    BroadcastPlan same;
    same.rank = 1;
    same.extents[0] = n;
    same.strides_a[0] = same.strides_b[0] = 1;
    BroadcastPlan bias;
    bias.rank = 2;
    bias.extents[0] = rows, bias.extents[1] = columns;
    bias.strides_a[0] = columns, bias.strides_a[1] = bias.strides_b[1] = 1;
    table.row("gelu", dtype, 2 * bytes, [&] { backend.unary(UnaryOp::kGelu, dtype, n, x, y); });
    table.row("gelu backward", dtype, 3 * bytes,
              [&] { backend.unary_backward(UnaryOp::kGelu, dtype, n, x, y, z, w); });
    table.row("addition", dtype, 3 * bytes, [&] { backend.binary(BinaryOp::kAdd, dtype, same, x, y, z); });
    table.row("addition of a row", dtype, 2 * bytes,
              [&] { backend.binary(BinaryOp::kAdd, dtype, bias, x, y, z); });
    table.row("sum of columns", dtype, bytes,
              [&] { backend.reduce(ReduceOp::kSum, dtype, 1, rows, columns, x, y); });
    table.row("addition in place", dtype, 3 * bytes, [&] { backend.accumulate(dtype, n, x, y); });
    table.row("dropout mask", dtype, bytes, [&] { backend.dropout_mask(dtype, n, {}, 0.1, y); });
    table.row("softmax", dtype, 2 * bytes, [&] { backend.softmax(false, dtype, rows, columns, x, y); });
    table.row("softmax backward", dtype, 3 * bytes,
              [&] { backend.softmax_backward(false, dtype, rows, columns, x, y, z); });
    table.row("layer norm", dtype, 2 * bytes, [&] {
      backend.norm({.dtype = dtype,
                    .narrow = dtype,
                    .rows = rows,
                    .columns = columns,
                    .gamma = gamma,
                    .epsilon = 1e-5},
                   x, nullptr, beta, nullptr, y, mean, rstd);
    });
    table.row("layer norm backward", dtype, 3 * bytes, [&] {
      backend.norm_backward(
          {.dtype = dtype, .narrow = dtype, .rows = rows, .columns = columns, .gamma = gamma}, x, mean, rstd,
          z, nullptr, y, nullptr, dgamma, dbeta);
    });
    // Statistics of a channel need all of it, which is read once more then.
    constexpr int64_t channels = 64;
    table.row("batch norm", dtype, 3 * bytes, [&] {
      backend.batch_norm(dtype, n / channels, channels, x, gamma, beta, 1e-5, y, dgamma, dbeta, rstd);
    });
    table.row("batch norm backward", dtype, 5 * bytes, [&] {
      backend.batch_norm_backward(dtype, n / channels, channels, x, gamma, mean, rstd, z, y, dgamma, dbeta);
    });
  }
  const DType dtype = DType::kF32;
  const int64_t columns = 1024, rows = array_bytes / 4 / columns, n = rows * columns;
  const Array p(backend, dtype, n), g(backend, dtype, n), m(backend, dtype, n, 0), v(backend, dtype, n, 0);
  const Array labels(backend, DType::kI32, rows, 3), losses(backend, dtype, rows);
  table.row("cross-entropy", dtype, 8.0 * static_cast<double>(n), [&] {
    backend.cross_entropy(dtype, rows, columns, p, static_cast<const int32_t*>(static_cast<void*>(labels)),
                          nullptr, losses, g);
  });
  table.row("cross-entropy backward", dtype, 8.0 * static_cast<double>(n), [&] {
    backend.cross_entropy_backward(
        dtype, rows, columns, p, static_cast<const int32_t*>(static_cast<void*>(labels)), nullptr, losses, g);
  });
  // Beside fp32 what products read in bf16.
  {
    const auto elements = static_cast<double>(n);
    const Array change(backend, DType::kBF16, n), narrow(backend, DType::kBF16, n), y(backend, dtype, n);
    const Array gamma(backend, dtype, columns), beta(backend, dtype, columns), mean(backend, dtype, rows),
        rstd(backend, dtype, rows), dgamma(backend, dtype, columns), dbeta(backend, dtype, columns);
    const NormArguments norm{
        .dtype = dtype, .narrow = DType::kBF16, .rows = rows, .columns = columns, .gamma = gamma};
    table.row("addition of bf16", dtype, 10.0 * elements,
              [&] { backend.add_narrow(DType::kBF16, n, p, change, y); });
    table.row("layer norm of a sum, in bf16", dtype, 12.0 * elements,
              [&] { backend.norm(norm, p, change, beta, y, narrow, mean, rstd); });
    table.row("layer norm backward, added, with a copy", dtype, 16.0 * elements,
              [&] { backend.norm_backward(norm, p, mean, rstd, change, g, y, narrow, dgamma, dbeta); });
    table.row("cross-entropy and its derivative in bf16", dtype, 6.0 * elements, [&] {
      backend.cross_entropy_gradient(DType::kBF16, rows, columns, p,
                                     static_cast<const int32_t*>(static_cast<void*>(labels)), nullptr, losses,
                                     mean, narrow);
    });
  }
  const Array sums(backend, DType::kF64, (n + Backend::kNormBlock - 1) / Backend::kNormBlock);
  table.row("sums of squares", dtype, 4.0 * static_cast<double>(n),
            [&] { backend.block_square_sums(dtype, n, g, static_cast<double*>(static_cast<void*>(sums))); });
  const Array lowered(backend, DType::kBF16, n);
  table.row("fp32 to bf16", dtype, 6.0 * static_cast<double>(n),
            [&] { backend.cast(dtype, DType::kBF16, n, g, lowered); });
  table.row("bf16 to fp32", dtype, 6.0 * static_cast<double>(n),
            [&] { backend.cast(DType::kBF16, dtype, n, lowered, g); });
  UpdateArguments update;
  update.n = n;
  update.parameters = p;
  update.gradients = g;
  update.slots[0] = m;
  update.slots[1] = v;
  const double scalars[] = {1e-3, 1e-2, 0.9, 0.999, 1e-8, 0.1, 0.001};
  std::copy(std::begin(scalars), std::end(scalars), update.scalars);
  table.row("AdamW", dtype, 28.0 * static_cast<double>(n),
            [&] { backend.update(UpdateFormula::kAdamW, update); });
  update.copy = lowered;
  table.row("AdamW with a copy", dtype, 30.0 * static_cast<double>(n),
            [&] { backend.update(UpdateFormula::kAdamW, update); });
}

// Seconds of a product with each algorithm that the library proposes, and last with the one that tuning
// chooses. Where there are fewer algorithms, the first stands for those that are missing. Where calls are not
// recorded, the one that is in force, once.
std::vector<double> with_each_algorithm(Backend& backend, const std::function<void()>& call) {
  constexpr int kMost = 16;
  PlanTable* const table = backend.plans();
  std::vector<std::unique_ptr<Batch>> batches;
  if (table != nullptr) {
    table->replace({});
    for (int number = 0; number < kMost; ++number) {
      table->set_search({.candidate = number});
      batches.push_back(std::make_unique<Batch>(backend, call));
    }
    table->set_search({.tune = true});
    call();
    table->set_search({});
  }
  batches.push_back(std::make_unique<Batch>(backend, call));
  return seconds_of(batches);
}

// Of products and attention.
enum class Size { kTiny, kSmall, kLarge };

void products(Backend& backend, Size size) {
  PlanTable* const table = backend.plans();
  fmt::print("\n| product (m,n,k) | type | TFLOP/s |{}\n|---|---|---|{}\n",
             table == nullptr ? "" : " first of the best | tuned of the best |",
             table == nullptr ? "" : "---|---|");
  std::vector<std::array<int64_t, 3>> shapes = {{32, 32, 32}};
  if (size != Size::kTiny) shapes = {{256, 2048, 2048}};
  if (size == Size::kLarge)
    shapes.insert(shapes.end(), {{4096, 4096, 4096}, {16384, 3072, 768}, {16384, 768, 3072}});
  for (const auto& [m, n, k] : shapes) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Array a(backend, dtype, m * k), b(backend, dtype, k * n), c(backend, dtype, m * n);
      MatmulArguments arguments;
      arguments.dtype = arguments.output = dtype;
      arguments.m = m, arguments.n = n, arguments.k = k;
      arguments.a = a;
      arguments.b = b;
      arguments.c = c;
      const auto call = [&] { backend.matmul(arguments); };
      const std::vector<double> seconds = with_each_algorithm(backend, call);
      const double best = *std::min_element(seconds.begin(), seconds.end());
      const std::string shares =
          table == nullptr ? ""
                           : fmt::format(" {:.3f} | {:.3f} |", best / seconds.front(), best / seconds.back());
      fmt::print("| {}x{}x{} | {} | {:.2f} |{}\n", m, n, k, name_of(dtype),
                 2e-12 * static_cast<double>(m * n * k) / seconds.back(), shares);
      std::fflush(stdout);
    }
  }
}

// Causal self-attention of q, k and v side by side: plain; bounded, the same work with first keys, all 0,
// which no library takes; and four query heads to one of keys; the latter two also by warp groups, where the
// GPU has those that multiply (elsewhere the same as without). Operations forward: two products of 2 B H T T
// D each, B samples, H heads, T positions, D numbers a head, of which causality leaves half; backward five
// such products, 2.5 times as many.
void attention(Backend& backend, Size extent) {
  fmt::print(
      "\n| causal attention (B,H,T,D) | type | kind | forward TFLOP/s | backward TFLOP/s "
      "|\n|---|---|---|---|---|\n");
  std::vector<std::array<int64_t, 4>> shapes = {{1, 4, 16, 64}};
  if (extent != Size::kTiny) shapes = {{4, 12, 256, 64}};
  if (extent == Size::kLarge)
    shapes.insert(shapes.end(), {{16, 12, 1024, 64}, {8, 8, 2048, 96}, {4, 16, 2048, 128}});
  for (const auto& [batch, heads, positions, size] : shapes) {
    for (const auto& [dtype, kind] : {std::pair{DType::kF32, "plain"},
                                      {DType::kBF16, "plain"},
                                      {DType::kBF16, "bounded"},
                                      {DType::kBF16, "bounded, warp groups"},
                                      {DType::kBF16, "grouped"},
                                      {DType::kBF16, "grouped, warp groups"}}) {
      const std::string_view name = kind;
      const bool bounded = name.starts_with("bounded"), grouped = name.starts_with("grouped");
      if (name.ends_with("warp groups")) {
        if (backend.plans() == nullptr) continue;
        backend.plans()->set_search({.candidate = 1});
      }
      AttentionArguments a;
      a.dtype = dtype;
      a.causal = true;
      a.batch = batch, a.heads = heads, a.queries = a.keys = positions, a.size = size;
      a.kv_heads = grouped ? heads / 4 : heads;
      a.scale = 1.0 / std::sqrt(static_cast<double>(size));
      const int64_t width = heads * size, key_width = a.kv_heads * size, rows = batch * positions;
      a.q_row = a.k_row = a.v_row = width + 2 * key_width;
      const Array first_keys(backend, DType::kF32, positions, 0.0);
      if (bounded)
        a.first_keys = static_cast<const int32_t*>(static_cast<const void*>(static_cast<void*>(first_keys)));
      const Array qkv(backend, dtype, rows * a.q_row), dqkv(backend, dtype, rows * a.q_row);
      const Array y(backend, dtype, rows * width), dy(backend, dtype, rows * width);
      const Array log_sums(backend, accumulation_type(dtype), batch * heads * positions);
      const auto part = [&](void* array, int64_t index) -> void* {
        const int64_t elements = index == 0 ? 0 : width + (index - 1) * key_width;
        return static_cast<char*>(array) + elements * static_cast<int64_t>(size_of(dtype));
      };
      const double forward = seconds_of(
          backend, [&] { backend.attention(a, part(qkv, 0), part(qkv, 1), part(qkv, 2), y, log_sums); });
      const double backward = seconds_of(backend, [&] {
        backend.attention_backward(a, part(qkv, 0), part(qkv, 1), part(qkv, 2), y, log_sums, dy,
                                   part(dqkv, 0), part(dqkv, 1), part(dqkv, 2));
      });
      const double operations = 0.5 * 4.0 * static_cast<double>(batch * heads * positions * positions * size);
      fmt::print("| ({},{},{},{}) | {} | {} | {:.3f} | {:.3f} |\n", batch, heads, positions, size,
                 name_of(dtype), kind, 1e-12 * operations / forward, 2.5e-12 * operations / backward);
      if (backend.plans() != nullptr) backend.plans()->set_search({});
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string device = argc > 1 ? argv[1] : "cpu";
    const int64_t mebibytes = argc > 2 ? std::atoll(argv[2]) : 64;
    if ((device != "cpu" && device != "cuda") || mebibytes < 1) {
      fail(ErrorKind::kUsage, "usage: device_benchmark [cpu|cuda] [MiB]");
    }
    Backend& backend = device == "cuda" ? cuda_backend(0) : cpu_backend();
    fmt::print("{}, arrays of {} MiB\n\n", backend.description(), mebibytes);
    memory_bound(backend, mebibytes << 20);
    const Size size = mebibytes < 16 ? Size::kTiny : device == "cuda" ? Size::kLarge : Size::kSmall;
    products(backend, size);
    attention(backend, size);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}
