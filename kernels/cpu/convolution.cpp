// Convolution as matrix products with patches: row (n, oh, ow) of the patch matrix holds the KH*KW*C elements
// of x under the window, so y = patches W', dW = dy' patches, and dx is what the rows of dy W add up to when
// laid back onto x.
//
// Patches are gathered a block at a time into the second-level cache and never exist as a whole. On small
// images this is as fast as oneDNN's direct convolution in its own blocked layouts
// (tools/bench/convolution_benchmark), needs no reordering of activations, and has the same bits for every
// batch size and number of threads.
#include <algorithm>
#include <cstring>

#include "core/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/matmul_block.h"
#include "kernels/cpu/vector.h"

namespace lockstep {

namespace {

// Elements of a block of patches: 256 KiB of float, a quarter of a typical second-level cache.
constexpr int64_t kPatchElements = int64_t{1} << 16;
// Rows of a block of patches at most, and output rows that a tile of dx covers at least.
constexpr int64_t kMaximumRows = 224;
constexpr int64_t kMinimumRows = 64;
// dW is summed over chunks of output positions, at most kChunks and of at least kChunkRows rows, then over
// the chunks in order. These numbers are part of the result's definition.
constexpr int64_t kChunks = 16;
constexpr int64_t kChunkRows = 1024;

template <class T>
void copy_elements(int64_t n, const T* x, T* y) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, load(x + i));
  if (i < n) store_first(y + i, n - i, load_first(x + i, n - i));
}

template <class T>
void zero_elements(int64_t n, T* y) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, Vector<T>{});
  if (i < n) store_first(y + i, n - i, Vector<T>{});
}

template <class T>
void add_elements(int64_t n, const T* x, T* y) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, load(y + i) + load(x + i));
  if (i < n) store_first(y + i, n - i, load_first(y + i, n - i) + load_first(x + i, n - i));
}

class Patches {
 public:
  explicit Patches(const ConvolutionArguments& arguments) : a_(arguments) {}

  int64_t rows() const { return a_.n * a_.oh * a_.ow; }
  int64_t columns() const { return a_.kh * a_.kw * a_.c; }
  // Is the patch matrix x itself?
  bool identity() const {
    return a_.kh == 1 && a_.kw == 1 && a_.stride_h == 1 && a_.stride_w == 1 && a_.pad_h == 0 && a_.pad_w == 0;
  }
  // Rows of a block that stays in cache.
  int64_t block_rows() const {
    return std::clamp<int64_t>(kPatchElements / std::max<int64_t>(columns(), 1), 1, kMaximumRows);
  }

  // patches (end - begin, columns) = rows [begin, end) of the patch matrix; padding is 0.
  template <class T>
  void gather(int64_t begin, int64_t end, const T* x, T* patches) const {
    each_run(begin, end, [&](int64_t row, int64_t kh, int64_t from, int64_t count, int64_t at) {
      T* const run = patches + (row - begin) * columns() + kh * a_.kw * a_.c;
      const int64_t whole = a_.kw * a_.c;
      if (from > 0) zero_elements(from, run);
      copy_elements(count, x + at, run + from);
      if (from + count < whole) zero_elements(whole - from - count, run + from + count);
    });
  }

  // The adjoint: adds rows [begin, end) of `patches` onto dx, in order.
  template <class T>
  void scatter(int64_t begin, int64_t end, const T* patches, T* dx) const {
    each_run(begin, end, [&](int64_t row, int64_t kh, int64_t from, int64_t count, int64_t at) {
      add_elements(count, patches + (row - begin) * columns() + kh * a_.kw * a_.c + from, dx + at);
    });
  }

 private:
  // Calls function(row, kh, from, count, at) for each row of a window: of its KW*C elements, [from, from +
  // count) lie over x and are consecutive there from element `at`; the others lie over padding.
  template <class F>
  void each_run(int64_t begin, int64_t end, const F& function) const {
    for (int64_t row = begin; row < end;) {
      const int64_t image = row / (a_.oh * a_.ow), oh = row / a_.ow % a_.oh, first = row % a_.ow;
      const int64_t last = std::min(a_.ow, first + end - row);
      for (int64_t ow = first; ow < last; ++ow, ++row) {
        const int64_t w = ow * a_.stride_w - a_.pad_w;
        const int64_t left = std::clamp<int64_t>(-w, 0, a_.kw),
                      right = std::clamp<int64_t>(a_.w - w, left, a_.kw);
        for (int64_t kh = 0; kh < a_.kh; ++kh) {
          const int64_t h = oh * a_.stride_h - a_.pad_h + kh;
          if (h < 0 || h >= a_.h) {
            function(row, kh, int64_t{0}, int64_t{0}, int64_t{0});
          } else {
            function(row, kh, left * a_.c, (right - left) * a_.c,
                     ((image * a_.h + h) * a_.w + w + left) * a_.c);
          }
        }
      }
    }
  }

  const ConvolutionArguments& a_;
};

template <class T>
void forward(const ConvolutionArguments& a, const T* x, const T* weights, const T* bias, T* y) {
  const Patches patches(a);
  const int64_t columns = patches.columns();
  // Once for all blocks: the products read the weights along O.
  thread_local Scratch weights_scratch;
  T* const across = weights_scratch.get<T>(columns * a.o);
  transpose(a.o, columns, weights, across);
  parallel_ranges(patches.rows(), patches.block_rows(), [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    Product<T> product;
    product.m = end - begin;
    product.n = a.o;
    product.k = columns;
    product.a = x + begin * columns;
    if (!patches.identity()) {
      T* const block = scratch.get<T>((end - begin) * columns);
      patches.gather(begin, end, x, block);
      product.a = block;
    }
    product.lda = columns;
    product.b = across;
    product.ldb = a.o;
    product.c = y + begin * a.o;
    product.ldc = a.o;
    product.bias = bias;
    multiply(product);
  });
}

template <class T>
void backward_data(const ConvolutionArguments& a, const T* dy, const T* weights, T* dx) {
  const Patches patches(a);
  const int64_t columns = patches.columns(), image_rows = a.oh * a.ow, image_elements = a.h * a.w * a.c;
  const int64_t images = std::max<int64_t>(1, kMinimumRows / std::max<int64_t>(image_rows, 1));  // of a tile
  parallel_ranges(a.n, images, [&](int64_t first, int64_t last) {
    thread_local Scratch scratch;
    if (!patches.identity()) zero_elements((last - first) * image_elements, dx + first * image_elements);
    const int64_t rows = patches.block_rows(), stop = last * image_rows;
    for (int64_t begin = first * image_rows; begin < stop; begin += rows) {
      const int64_t end = std::min(begin + rows, stop);
      Product<T> product;
      product.m = end - begin;
      product.n = columns;
      product.k = a.o;
      product.a = dy + begin * a.o;
      product.lda = a.o;
      product.b = weights;
      product.ldb = columns;
      product.c = patches.identity() ? dx + begin * columns : scratch.get<T>((end - begin) * columns);
      product.ldc = columns;
      multiply(product);
      if (!patches.identity()) patches.scatter(begin, end, product.c, dx);
    }
  });
}

template <class T>
void backward_weights(const ConvolutionArguments& a, const T* x, const T* dy, T* dweights) {
  const Patches patches(a);
  const int64_t columns = patches.columns(), elements = a.o * columns;
  const int64_t chunk_rows = std::max(kChunkRows, (patches.rows() + kChunks - 1) / kChunks);
  const int64_t chunks = std::max<int64_t>(1, (patches.rows() + chunk_rows - 1) / chunk_rows);
  thread_local Scratch chunk_scratch;
  T* const others = chunk_scratch.get<T>((chunks - 1) * elements);
  thread_pool().run(chunks, [&](int64_t chunk) {
    thread_local Scratch scratch;
    T* const sum = chunk == 0 ? dweights : others + (chunk - 1) * elements;
    const int64_t first = chunk * chunk_rows, stop = std::min(patches.rows(), first + chunk_rows);
    const int64_t rows = patches.block_rows();
    for (int64_t begin = first; begin < stop || begin == first; begin += rows) {
      const int64_t end = std::min(begin + rows, stop);
      Product<T> product;
      product.m = a.o;
      product.n = columns;
      product.k = end - begin;
      product.a = dy + begin * a.o;
      product.lda = a.o;
      product.transpose_a = true;
      product.b = x + begin * columns;
      if (!patches.identity()) {
        T* const block = scratch.get<T>((end - begin) * columns);
        patches.gather(begin, end, x, block);
        product.b = block;
      }
      product.ldb = columns;
      product.c = sum;
      product.ldc = columns;
      product.accumulate = begin > first;
      multiply(product);
    }
  });
  if (chunks == 1) return;
  parallel_ranges(elements, kElementGrain, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      add_elements(end - begin, others + (chunk - 1) * elements + begin, dweights + begin);
    }
  });
}

}  // namespace

void CpuBackend::convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                             const void* bias, void* y) {
  dispatch_floating("convolution", arguments.dtype, [&]<class T>(T) {
    forward(arguments, static_cast<const T*>(x), static_cast<const T*>(weights), static_cast<const T*>(bias),
            static_cast<T*>(y));
  });
}

void CpuBackend::convolution_backward_data(const ConvolutionArguments& arguments, const void* dy,
                                           const void* weights, void* dx) {
  dispatch_floating("convolution", arguments.dtype, [&]<class T>(T) {
    backward_data(arguments, static_cast<const T*>(dy), static_cast<const T*>(weights), static_cast<T*>(dx));
  });
}

void CpuBackend::convolution_backward_weights(const ConvolutionArguments& arguments, const void* x,
                                              const void* dy, void* dweights) {
  dispatch_floating("convolution", arguments.dtype, [&]<class T>(T) {
    backward_weights(arguments, static_cast<const T*>(x), static_cast<const T*>(dy),
                     static_cast<T*>(dweights));
  });
}

}  // namespace lockstep
