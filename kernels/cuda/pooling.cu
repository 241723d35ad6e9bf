// Max and average pooling over (N, H, W, C): one thread a result. The backward passes gather from the windows
// over an element instead of scattering to it, so that each sum has one order.
#include <limits>

#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/windows.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/pool_windows.h"

namespace lockstep {

namespace {

constexpr int kThreads = 256;

// Inputs and outputs of a call, and the windows between them.
struct Pool {
  ImageCells inputs, outputs;
  WindowAxis rows, columns;

  explicit Pool(const PoolArguments& p)
      : inputs(p.h, p.w, p.c),
        outputs(p.oh, p.ow, p.c),
        rows(p.kh, p.stride_h, p.pad_h, p.h, p.oh),
        columns(p.kw, p.stride_w, p.pad_w, p.w, p.ow) {}
};

// body(position, element) for the positions h*W + w of an output's window in row-major order, and the element
// there.
template <class Body>
LOCKSTEP_DEVICE void for_positions(const Pool& pool, const ImageCells::Cell& output, const Body& body) {
  const WindowAxis::Range rows = pool.rows.positions_of(output.row);
  const WindowAxis::Range columns = pool.columns.positions_of(output.column);
  for (int row = rows.begin; row < rows.end; ++row) {
    for (int column = columns.begin; column < columns.end; ++column) {
      body(row * pool.columns.extent + column, pool.inputs.pixel(output.image, row, column) + output.channel);
    }
  }
}

// body(element) for the outputs whose windows hold an input, in row-major order.
template <class Body>
LOCKSTEP_DEVICE void for_windows(const Pool& pool, const ImageCells::Cell& input, const Body& body) {
  const WindowAxis::Range rows = pool.rows.windows_over(input.row);
  const WindowAxis::Range columns = pool.columns.windows_over(input.column);
  for (int row = rows.begin; row < rows.end; ++row) {
    for (int column = columns.begin; column < columns.end; ++column) {
      body(pool.outputs.pixel(input.image, row, column) + input.channel);
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    max_pool_kernel(int64_t cells, Pool pool, const S* x, S* y, int32_t* indices) {
  using T = Accumulation<S>;
  const int64_t i = global_thread();
  if (i >= cells) return;
  T best = -std::numeric_limits<T>::infinity();
  int where = -1;  // nothing yet: the first element of the window is taken whatever it is
  for_positions(pool, pool.outputs.at(static_cast<uint32_t>(i)), [&](int position, int64_t element) {
    const T value = widen(x[element]);
    // The first NaN wins and stays.
    const bool take = where < 0 || value > best || (value != value && best == best);
    best = take ? value : best;
    where = take ? position : where;
  });
  y[i] = rounded<S>(best);
  indices[i] = where;
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    max_pool_backward_kernel(int64_t cells, Pool pool, const int32_t* indices, const S* dy, S* dx) {
  using T = Accumulation<S>;
  const int64_t i = global_thread();
  if (i >= cells) return;
  const ImageCells::Cell input = pool.inputs.at(static_cast<uint32_t>(i));
  const int position = input.row * pool.columns.extent + input.column;
  T sum = T(0);
  for_windows(pool, input,
              [&](int64_t output) { sum += indices[output] == position ? widen(dy[output]) : T(0); });
  dx[i] = rounded<S>(sum);
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    max_pool_gather_kernel(int64_t cells, Pool pool, const int32_t* indices, const S* x, S* y) {
  const int64_t i = global_thread();
  if (i >= cells) return;
  const ImageCells::Cell output = pool.outputs.at(static_cast<uint32_t>(i));
  const int64_t channels = static_cast<int64_t>(pool.inputs.channels.divisor);
  y[i] = x[pool.inputs.pixel(output.image, 0, 0) + indices[i] * channels + output.channel];
}

template <class S>
__global__ void __launch_bounds__(kThreads) average_pool_kernel(int64_t cells, Pool pool, const S* x, S* y) {
  using T = Accumulation<S>;
  const int64_t i = global_thread();
  if (i >= cells) return;
  T sum = T(0);
  for_positions(pool, pool.outputs.at(static_cast<uint32_t>(i)),
                [&](int, int64_t element) { sum += widen(x[element]); });
  y[i] = rounded<S>(sum / static_cast<T>(pool.rows.size * pool.columns.size));
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    average_pool_backward_kernel(int64_t cells, Pool pool, const S* dy, S* dx) {
  using T = Accumulation<S>;
  const int64_t i = global_thread();
  if (i >= cells) return;
  const T area = static_cast<T>(pool.rows.size * pool.columns.size);
  T sum = T(0);
  for_windows(pool, pool.inputs.at(static_cast<uint32_t>(i)),
              [&](int64_t output) { sum += widen(dy[output]) / area; });
  dx[i] = rounded<S>(sum);
}

int64_t input_elements(const PoolArguments& p) {
  return p.h * p.w * p.c;
}
int64_t output_elements(const PoolArguments& p) {
  return p.oh * p.ow * p.c;
}

// function(first, count) for ranges of images whose inputs and outputs can be counted.
template <class F>
void for_pool_ranges(const char* op, const PoolArguments& p, const F& function) {
  for_image_ranges(op, p.n, p.n, std::max(input_elements(p), output_elements(p)), function);
}

template <class S>
const S* image(const void* images, int64_t index, int64_t elements) {
  return static_cast<const S*>(images) + index * elements;
}
template <class S>
S* image(void* images, int64_t index, int64_t elements) {
  return static_cast<S*>(images) + index * elements;
}

}  // namespace

void CudaBackend::max_pool(const PoolArguments& arguments, const void* x, void* y, int32_t* indices) {
  const PoolArguments& p = arguments;
  check_pool("max_pool", p);
  const int64_t in = input_elements(p), out = output_elements(p);
  if (out == 0) return;
  dispatch_floating("max_pool", p.dtype, [&](auto type) {
    using S = decltype(type);
    for_pool_ranges("max_pool", p, [&](int64_t first, int64_t count) {
      LOCKSTEP_LAUNCH(max_pool_kernel<S>, blocks_for(count * out, kThreads), kThreads, 0, stream(),
                      count * out, Pool(p), image<S>(x, first, in), image<S>(y, first, out),
                      indices + first * out);
    });
  });
}

void CudaBackend::max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                                    void* dx) {
  const PoolArguments& p = arguments;
  check_pool("max_pool_backward", p);
  const int64_t in = input_elements(p), out = output_elements(p);
  if (in == 0) return;
  dispatch_floating("max_pool_backward", p.dtype, [&](auto type) {
    using S = decltype(type);
    for_pool_ranges("max_pool_backward", p, [&](int64_t first, int64_t count) {
      LOCKSTEP_LAUNCH(max_pool_backward_kernel<S>, blocks_for(count * in, kThreads), kThreads, 0, stream(),
                      count * in, Pool(p), indices + first * out, image<S>(dy, first, out),
                      image<S>(dx, first, in));
    });
  });
}

void CudaBackend::max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                                  void* y) {
  const PoolArguments& p = arguments;
  const int64_t in = input_elements(p), out = output_elements(p);
  if (out == 0) return;
  dispatch_floating("max_pool_gather", p.dtype, [&](auto type) {
    using S = decltype(type);
    for_pool_ranges("max_pool_gather", p, [&](int64_t first, int64_t count) {
      LOCKSTEP_LAUNCH(max_pool_gather_kernel<S>, blocks_for(count * out, kThreads), kThreads, 0, stream(),
                      count * out, Pool(p), indices + first * out, image<S>(x, first, in),
                      image<S>(y, first, out));
    });
  });
}

void CudaBackend::average_pool(const PoolArguments& arguments, const void* x, void* y) {
  const PoolArguments& p = arguments;
  check_pool("average_pool", p);
  const int64_t in = input_elements(p), out = output_elements(p);
  if (out == 0) return;
  dispatch_floating("average_pool", p.dtype, [&](auto type) {
    using S = decltype(type);
    for_pool_ranges("average_pool", p, [&](int64_t first, int64_t count) {
      LOCKSTEP_LAUNCH(average_pool_kernel<S>, blocks_for(count * out, kThreads), kThreads, 0, stream(),
                      count * out, Pool(p), image<S>(x, first, in), image<S>(y, first, out));
    });
  });
}

void CudaBackend::average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) {
  const PoolArguments& p = arguments;
  check_pool("average_pool_backward", p);
  const int64_t in = input_elements(p), out = output_elements(p);
  if (in == 0) return;
  dispatch_floating("average_pool_backward", p.dtype, [&](auto type) {
    using S = decltype(type);
    for_pool_ranges("average_pool_backward", p, [&](int64_t first, int64_t count) {
      LOCKSTEP_LAUNCH(average_pool_backward_kernel<S>, blocks_for(count * in, kThreads), kThreads, 0,
                      stream(), count * in, Pool(p), image<S>(dy, first, out), image<S>(dx, first, in));
    });
  });
}

}  // namespace lockstep
