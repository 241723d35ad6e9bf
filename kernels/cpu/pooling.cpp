// Max and average pooling over (N, H, W, C): loops over windows, vectorized over channels, samples in
// parallel.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/elements.h"

namespace lockstep {

namespace {

// Every window must contain an element of the input, and the output must be what the windows say.
void check_pool(const char* op, const PoolArguments& p) {
  const bool valid = p.kh > 0 && p.kw > 0 && p.stride_h > 0 && p.stride_w > 0 && p.pad_h >= 0 &&
                     p.pad_w >= 0 && p.pad_h < p.kh && p.pad_w < p.kw &&
                     (p.oh - 1) * p.stride_h - p.pad_h + p.kh <= p.h + p.pad_h &&
                     (p.ow - 1) * p.stride_w - p.pad_w + p.kw <= p.w + p.pad_w;
  if (!valid) {
    fail(ErrorKind::kInternal,
         fmt::format(
             "{}: windows must fit the padded input and padding be smaller than the window: input {}x{}, "
             "window {}x{}, stride {}x{}, padding {}x{}, output {}x{}",
             op, p.h, p.w, p.kh, p.kw, p.stride_h, p.stride_w, p.pad_h, p.pad_w, p.oh, p.ow));
  }
}

// For samples [begin, end): visit(output, sample, input_row, input_column) for the positions of each window
// that lie inside the input, in row-major order, where `output` counts positions (n, oh, ow); before(output)
// precedes each window.
template <class Before, class Visit>
[[gnu::always_inline]] inline void for_windows(const PoolArguments& p, int64_t begin, int64_t end,
                                               const Before& before, const Visit& visit) {
  for (int64_t sample = begin; sample < end; ++sample) {
    for (int64_t i = 0; i < p.oh; ++i) {
      const int64_t row = i * p.stride_h - p.pad_h;
      const int64_t row_begin = std::max<int64_t>(row, 0), row_end = std::min(row + p.kh, p.h);
      for (int64_t j = 0; j < p.ow; ++j) {
        const int64_t column = j * p.stride_w - p.pad_w;
        const int64_t column_begin = std::max<int64_t>(column, 0), column_end = std::min(column + p.kw, p.w);
        const int64_t output = (sample * p.oh + i) * p.ow + j;
        before(output);
        for (int64_t h = row_begin; h < row_end; ++h) {
          for (int64_t w = column_begin; w < column_end; ++w) visit(output, sample, h, w);
        }
      }
    }
  }
}

int64_t samples_per_tile(const PoolArguments& p) {
  return rows_per_tile(p.h * p.w * p.c);
}

}  // namespace

void CpuBackend::max_pool(const PoolArguments& arguments, const void* x, void* y, int32_t* indices) {
  const PoolArguments p = arguments;
  check_pool("max_pool", p);
  dispatch_floating("max_pool", p.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      for_windows(
          p, begin, end,
          [=](int64_t output) {
            // -1 marks "nothing yet": the first element of the window is taken whatever it is.
            std::fill_n(indices + output * p.c, p.c, -1);
          },
          [=](int64_t output, int64_t sample, int64_t h, int64_t w) {
            const T* in = static_cast<const T*>(x) + ((sample * p.h + h) * p.w + w) * p.c;
            T* best = static_cast<T*>(y) + output * p.c;
            int32_t* where = indices + output * p.c;
            const int32_t position = static_cast<int32_t>(h * p.w + w);
            simd_for<T>(p.c, [=](int64_t c) {
              const T old = where[c] < 0 ? -std::numeric_limits<T>::infinity() : best[c];
              // The first NaN wins and stays.
              const bool take = where[c] < 0 || in[c] > old || (in[c] != in[c] && old == old);
              best[c] = take ? in[c] : old;
              where[c] = take ? position : where[c];
            });
          });
    });
  });
}

void CpuBackend::max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                                   void* dx) {
  const PoolArguments p = arguments;
  check_pool("max_pool_backward", p);
  dispatch_floating("max_pool_backward", p.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      T* results = static_cast<T*>(dx);
      std::fill(results + begin * p.h * p.w * p.c, results + end * p.h * p.w * p.c, T(0));
      // A masked addition to each position of the window instead of a scatter to the chosen one.
      for_windows(
          p, begin, end, [](int64_t) {},
          [=](int64_t output, int64_t sample, int64_t h, int64_t w) {
            const T* gradient = static_cast<const T*>(dy) + output * p.c;
            const int32_t* where = indices + output * p.c;
            T* out = results + ((sample * p.h + h) * p.w + w) * p.c;
            const int32_t position = static_cast<int32_t>(h * p.w + w);
            simd_for<T>(p.c, [=](int64_t c) { out[c] += where[c] == position ? gradient[c] : T(0); });
          });
    });
  });
}

void CpuBackend::max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                                 void* y) {
  const PoolArguments p = arguments;
  dispatch_floating("max_pool_gather", p.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t outputs = p.oh * p.ow;
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      for (int64_t output = begin * outputs; output < end * outputs; ++output) {
        const T* in = static_cast<const T*>(x) + output / outputs * (p.h * p.w * p.c);
        const int32_t* where = indices + output * p.c;
        T* out = static_cast<T*>(y) + output * p.c;
        for (int64_t c = 0; c < p.c; ++c) out[c] = in[where[c] * p.c + c];
      }
    });
  });
}

void CpuBackend::average_pool(const PoolArguments& arguments, const void* x, void* y) {
  const PoolArguments p = arguments;
  check_pool("average_pool", p);
  dispatch_floating("average_pool", p.dtype, [&](auto type) {
    using T = decltype(type);
    const T area = static_cast<T>(p.kh * p.kw);
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      T* results = static_cast<T*>(y);
      for_windows(
          p, begin, end, [=](int64_t output) { std::fill_n(results + output * p.c, p.c, T(0)); },
          [=](int64_t output, int64_t sample, int64_t h, int64_t w) {
            const T* in = static_cast<const T*>(x) + ((sample * p.h + h) * p.w + w) * p.c;
            T* sum = results + output * p.c;
            simd_for<T>(p.c, [=](int64_t c) { sum[c] += in[c]; });
          });
      T* first = results + begin * p.oh * p.ow * p.c;
      simd_for<T>((end - begin) * p.oh * p.ow * p.c, [=](int64_t i) { first[i] /= area; });
    });
  });
}

void CpuBackend::average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) {
  const PoolArguments p = arguments;
  check_pool("average_pool_backward", p);
  dispatch_floating("average_pool_backward", p.dtype, [&](auto type) {
    using T = decltype(type);
    const T area = static_cast<T>(p.kh * p.kw);
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      T* results = static_cast<T*>(dx);
      std::fill(results + begin * p.h * p.w * p.c, results + end * p.h * p.w * p.c, T(0));
      for_windows(
          p, begin, end, [](int64_t) {},
          [=](int64_t output, int64_t sample, int64_t h, int64_t w) {
            const T* gradient = static_cast<const T*>(dy) + output * p.c;
            T* out = results + ((sample * p.h + h) * p.w + w) * p.c;
            simd_for<T>(p.c, [=](int64_t c) { out[c] += gradient[c] / area; });
          });
    });
  });
}

}  // namespace lockstep
