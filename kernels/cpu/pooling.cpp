// Max and average pooling over (N, H, W, C): loops over windows, vectorized over channels, samples in
// parallel.
#include <limits>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/pool_windows.h"

namespace lockstep {

namespace {

// The part of a window that lies inside the input; `output` counts positions (n, oh, ow).
struct Window {
  int64_t output, sample, row_begin, row_end, column_begin, column_end;
};

// body(window) for the windows of samples [begin, end) in row-major order.
template <class Body>
void for_windows(const PoolArguments& p, int64_t begin, int64_t end, const Body& body) {
  for (int64_t sample = begin; sample < end; ++sample) {
    for (int64_t i = 0; i < p.oh; ++i) {
      const int64_t row = i * p.stride_h - p.pad_h;
      for (int64_t j = 0; j < p.ow; ++j) {
        const int64_t column = j * p.stride_w - p.pad_w;
        body(Window{(sample * p.oh + i) * p.ow + j, sample, std::max<int64_t>(row, 0),
                    std::min(row + p.kh, p.h), std::max<int64_t>(column, 0), std::min(column + p.kw, p.w)});
      }
    }
  }
}

// body(position, element) for the positions h*W + w of a window in row-major order; `element` is where
// channel 0 of the position lies in the window's sample.
template <class Body>
[[gnu::always_inline]] inline void for_positions(const PoolArguments& p, const Window& window,
                                                 const Body& body) {
  for (int64_t h = window.row_begin; h < window.row_end; ++h) {
    for (int64_t w = window.column_begin; w < window.column_end; ++w) body(h * p.w + w, (h * p.w + w) * p.c);
  }
}

// Positions of as many channels as a Pack<T> has lanes, as wide as T so that comparisons of both can be
// mixed.
template <class T>
struct Positions {
  static constexpr int64_t kLanes = Pack<T>::kLanes;
  using Raw = typename Pack<T>::Index;
  using Narrow [[gnu::vector_size(4 * kLanes)]] = int32_t;
  Raw raw;

  static Positions repeat(int64_t position) {
    return {Raw{} + static_cast<typename Pack<T>::Integer>(position)};
  }
  static Positions load(const int32_t* indices, int64_t count) {
    int32_t lanes[kLanes];
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane < count ? indices[lane] : -1;
    Narrow narrow;
    std::memcpy(&narrow, lanes, sizeof(narrow));
    return {__builtin_convertvector(narrow, Raw)};
  }
  void store(int32_t* indices, int64_t count) const {
    const Narrow narrow = __builtin_convertvector(raw, Narrow);
    int32_t lanes[kLanes];
    std::memcpy(lanes, &narrow, sizeof(narrow));
    // Not a loop: as in Pack::store.
    if (count >= kLanes) {
      std::memcpy(indices, lanes, sizeof(lanes));
    } else {
      std::memcpy(indices, lanes, static_cast<size_t>(count) * sizeof(int32_t));
    }
  }
};

// body(window, sums) for the windows of samples [begin, end): adds to sums, the elements of the window's
// sample, zero at first. They are rounded to `results` when the sample is done.
template <class S, class Body>
void sum_windows(const PoolArguments& p, int64_t begin, int64_t end, S* results, const Body& body) {
  using T = Accumulation<S>;
  const int64_t elements = p.h * p.w * p.c;
  for (int64_t sample = begin; sample < end; ++sample) {
    S* const result = results + sample * elements;
    T* sums;
    if constexpr (std::is_same_v<S, T>) {
      sums = result;
    } else {
      thread_local Scratch scratch;
      sums = scratch.get<T>(elements);
    }
    std::fill_n(sums, elements, T(0));
    for_windows(p, sample, sample + 1, [&](const Window& window) { body(window, sums); });
    if constexpr (!std::is_same_v<S, T>) {
      simd_for<T>(elements, [=](int64_t i) { result[i] = S(sums[i]); });
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
    using S = decltype(type);
    using T = Accumulation<S>;
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      for_windows(p, begin, end, [=](const Window& window) {
        for (int64_t c = 0; c < p.c; c += Pack<T>::kLanes) {
          const S* in = static_cast<const S*>(x) + window.sample * p.h * p.w * p.c + c;
          const int64_t count = p.c - c;
          Pack<T> best = Pack<T>::repeat(-std::numeric_limits<T>::infinity());
          // -1 marks "nothing yet": the first element of the window is taken whatever it is.
          Positions<T> where = Positions<T>::repeat(-1);
          for_positions(p, window, [&](int64_t position, int64_t element) {
            const Pack<T> value = Pack<T>::load(in + element, count, T(0));
            // The first NaN wins and stays.
            const auto take = (where.raw < 0) | (value.raw > best.raw) |
                              ((value.raw != value.raw) & (best.raw == best.raw));
            best.raw = take ? value.raw : best.raw;
            where.raw = take ? Positions<T>::repeat(position).raw : where.raw;
          });
          best.store(static_cast<S*>(y) + window.output * p.c + c, count);
          where.store(indices + window.output * p.c + c, count);
        }
      });
    });
  });
}

void CpuBackend::max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                                   void* dx) {
  const PoolArguments p = arguments;
  check_pool("max_pool_backward", p);
  dispatch_floating("max_pool_backward", p.dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      // A masked addition to each position of the window instead of a scatter to the chosen one.
      sum_windows(p, begin, end, static_cast<S*>(dx), [=](const Window& window, T* sums) {
        for (int64_t c = 0; c < p.c; c += Pack<T>::kLanes) {
          const int64_t count = p.c - c;
          const Positions<T> where = Positions<T>::load(indices + window.output * p.c + c, count);
          const Pack<T> gradient =
              Pack<T>::load(static_cast<const S*>(dy) + window.output * p.c + c, count, T(0));
          for_positions(p, window, [&](int64_t position, int64_t element) {
            T* out = sums + element + c;
            const auto chosen = where.raw == Positions<T>::repeat(position).raw;
            const Pack<T> share{chosen ? gradient.raw : typename Pack<T>::Raw{}};
            (Pack<T>::load(out, count, T(0)) + share).store(out, count);
          });
        }
      });
    });
  });
}

void CpuBackend::max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                                 void* y) {
  const PoolArguments p = arguments;
  dispatch_floating("max_pool_gather", p.dtype, [&](auto type) {
    using S = decltype(type);
    const int64_t outputs = p.oh * p.ow;
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      for (int64_t output = begin * outputs; output < end * outputs; ++output) {
        const S* in = static_cast<const S*>(x) + output / outputs * (p.h * p.w * p.c);
        const int32_t* where = indices + output * p.c;
        S* out = static_cast<S*>(y) + output * p.c;
        for (int64_t c = 0; c < p.c; ++c) out[c] = in[where[c] * p.c + c];
      }
    });
  });
}

void CpuBackend::average_pool(const PoolArguments& arguments, const void* x, void* y) {
  const PoolArguments p = arguments;
  check_pool("average_pool", p);
  dispatch_floating("average_pool", p.dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const Pack<T> area = Pack<T>::repeat(static_cast<T>(p.kh * p.kw));
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      S* results = static_cast<S*>(y);
      for_windows(p, begin, end, [=](const Window& window) {
        for (int64_t c = 0; c < p.c; c += Pack<T>::kLanes) {
          const S* in = static_cast<const S*>(x) + window.sample * p.h * p.w * p.c + c;
          const int64_t count = p.c - c;
          Pack<T> sum = Pack<T>::repeat(T(0));
          for_positions(p, window, [&](int64_t, int64_t element) {
            sum = sum + Pack<T>::load(in + element, count, T(0));
          });
          (sum / area).store(results + window.output * p.c + c, count);
        }
      });
    });
  });
}

void CpuBackend::average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) {
  const PoolArguments p = arguments;
  check_pool("average_pool_backward", p);
  dispatch_floating("average_pool_backward", p.dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const Pack<T> area = Pack<T>::repeat(static_cast<T>(p.kh * p.kw));
    parallel_ranges(p.n, samples_per_tile(p), [=](int64_t begin, int64_t end) {
      sum_windows(p, begin, end, static_cast<S*>(dx), [=](const Window& window, T* sums) {
        for (int64_t c = 0; c < p.c; c += Pack<T>::kLanes) {
          const int64_t count = p.c - c;
          const Pack<T> share =
              Pack<T>::load(static_cast<const S*>(dy) + window.output * p.c + c, count, T(0)) / area;
          for_positions(p, window, [&](int64_t, int64_t element) {
            T* out = sums + element + c;
            (Pack<T>::load(out, count, T(0)) + share).store(out, count);
          });
        }
      });
    });
  });
}

}  // namespace lockstep
