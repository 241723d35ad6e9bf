// Matrix products: the split of one product, or of a batch of them, over the worker's threads.
//
// All sizes run on one kernel of our own instead of a library's, because its bits do not depend on the split,
// so the split may follow the number of threads. It costs little: `matmul_benchmark fp32 1` on one core of a
// Zen 4 machine gave 0.92 to 1.25 of oneDNN 2.6.3's speed in its 27 rows (median 0.98; 0.94 and more but for
// 32x64x128 NT), 100 to 112 of the core's 118 GFLOP/s from 64x512x512 up. In bf16 the same kernel gave 0.93
// to 1.14 of oneDNN (median 0.99; 0.8 at 32x64x128), 1.9 to 2.0 times its own fp32 from 64x512x512 up. A call
// costs 60 ns.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/matmul_block.h"
#include "lockstep/kernels/cpu/matmul_tile.h"
#include "lockstep/kernels/cpu/matrix_copy.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// Multiply-adds below which a product stays on one thread: about 10 microseconds of work, several times what
// it costs to hand a tile to a thread and wait for it.
constexpr int64_t kSerialWork = int64_t{1} << 19;
// Narrowest part of c: two register tiles, so that its panels stay whole.
constexpr int64_t kNarrowestPart = 64;
// Rows of a part of a product of a matrix with its own transpose: whole register tiles and whole vectors.
constexpr int64_t kStrip = kRows == 14 ? 112 : 96;

// Elements of c for each column of a and b, up to which a product may be cut along k: that many partial sums
// are a sixth of what is read.
constexpr int64_t kFewElements = 64;

// c = op(a) op(a)': what lies on the diagonal and above it, of which the rest is the mirror image, with the
// bits that it would have by itself: the factors of each product change places, sums keep their order.
template <class In>
void multiply_with_itself(const Product<In, Sum<Factor<In>>>& whole) {
  struct Part {
    int64_t row, rows, column, columns;
  };
  const int64_t n = whole.n;
  const int64_t wanted = 2 * thread_pool().threads();
  const int64_t widest = std::max(kStrip, (n * n / 2 / wanted / kStrip + 31) / 32 * 32);
  std::vector<Part> parts;
  for (int64_t row = 0; row < n; row += kStrip) {
    for (int64_t column = row; column < n; column += widest)
      parts.push_back({row, std::min(kStrip, n - row), column, std::min(widest, n - column)});
  }
  thread_pool().run(static_cast<int64_t>(parts.size()), [&](int64_t i) {
    const Part& part = parts[static_cast<size_t>(i)];
    Product<In, Sum<Factor<In>>> product = whole;
    product.m = part.rows;
    product.n = part.columns;
    product.a += part.row * (whole.transpose_a ? 1 : whole.lda);
    product.b += part.column * (whole.transpose_b ? whole.ldb : 1);
    product.c += part.row * whole.ldc + part.column;
    multiply(product);
    const int64_t below = std::max(part.column, part.row + part.rows);  // the first row of the image
    const int64_t images = part.column + part.columns - below;
    if (images <= 0) return;
    transpose_matrix(part.rows, images, whole.c + part.row * whole.ldc + below, whole.ldc,
                     whole.c + below * whole.ldc + part.row, whole.ldc);
  });
}

// c = a' b of few elements and a long k, the gradient of a narrow layer, cut along k at the blocks after
// which sums restart: a thread then reads rows that lie together, many of which it has just read in the
// product before. Cut along m, each takes half of every row. On two threads 115 us against 138 at 64x5000x64,
// 35 against 48 at 256x2000x10, the same at 784x1000x10; an evaluation of softmax regression, data out of
// memory, 13.2 ms against 14.0.
template <class In>
void multiply_along_blocks(const Product<In, Sum<Factor<In>>>& whole, int64_t depth) {
  using T = Sum<Factor<In>>;
  const int64_t m = whole.m, n = whole.n, k = whole.k;
  const int64_t blocks = (k + depth - 1) / depth;
  const int64_t tiles = std::min<int64_t>(thread_pool().threads(), m * n * k / (kSerialWork / 2));
  thread_local Scratch scratch;
  T* const later = scratch.get<T>((blocks - 1) * m * n);
  // Blocks are cut into strips of m, of which each thread has as many.
  const int64_t strip = ((m + tiles - 1) / tiles + 15) / 16 * 16, strips = (m + strip - 1) / strip;
  const int64_t units = blocks * strips;
  thread_pool().run(tiles, [&](int64_t tile) {
    const int64_t end = (tile + 1) * units / tiles;
    for (int64_t unit = tile * units / tiles; unit < end;) {
      const int64_t block = unit / strips, row = unit % strips * strip;
      const int64_t next = std::min((block + 1) * strips, end);
      Product<In, T> part = whole;
      part.m = std::min(m - row, (next - unit) * strip);
      part.k = std::min(depth, k - block * depth);
      part.a += block * depth * whole.lda + row;
      part.b += block * depth * whole.ldb;
      part.c = (block == 0 ? whole.c : later + (block - 1) * m * n) + row * n;
      multiply(part);
      unit = next;
    }
  });
  for (int64_t block = 1; block < blocks; ++block) {
    const T* const term = later + (block - 1) * m * n;
    parallel_ranges(m * n, kElementGrain, [c = whole.c, term](int64_t begin, int64_t end) {
      simd_for<T>(end - begin, [to = c + begin, from = term + begin](int64_t i) { to[i] += from[i]; });
    });
  }
}

// c = activation(op(a) op(b) + bias).
template <class In, class Out>
void multiply_batch(const MatmulArguments& arguments) {
  const int64_t m = arguments.m, n = arguments.n, k = arguments.k, batch = arguments.batch;
  if (batch == 0 || m == 0 || n == 0) return;
  // Of k = 0 nothing is read, but addresses are formed, which may not be of nothing.
  static constexpr In kNothing{};
  Product<In, Out> whole;
  whole.m = m;
  whole.n = n;
  whole.k = k;
  whole.a = k > 0 ? static_cast<const In*>(arguments.a) : &kNothing;
  whole.lda = arguments.transpose_a ? m : k;
  whole.transpose_a = arguments.transpose_a;
  whole.b = k > 0 ? static_cast<const In*>(arguments.b) : &kNothing;
  whole.ldb = arguments.transpose_b ? k : n;
  whole.transpose_b = arguments.transpose_b;
  whole.c = static_cast<Out*>(arguments.c);
  whole.ldc = n;
  whole.bias = static_cast<const Accumulation<In>*>(arguments.bias);
  whole.activation = arguments.activation;

  const auto one_matrix = [&](int64_t i) {
    Product<In, Out> product = whole;
    product.a += i * arguments.batch_stride_a;
    product.b += i * arguments.batch_stride_b;
    product.c += i * m * n;
    return product;
  };

  if constexpr (std::is_same_v<Out, Sum<Factor<In>>>) {
    const bool with_itself = arguments.a == arguments.b && m == n && whole.transpose_a != whole.transpose_b &&
                             whole.bias == nullptr && whole.activation == Activation::kNone;
    if (with_itself && batch == 1 && n >= 3 * kStrip && k >= 96) return multiply_with_itself<In>(whole);
    const int64_t depth = block_of_sums<In>(k);
    const bool small = m * n <= kFewElements * (m + n);
    if (thread_pool().threads() > 1 && batch == 1 && small && k > depth && m * n * k >= kSerialWork &&
        whole.transpose_a && !whole.transpose_b && whole.bias == nullptr &&
        whole.activation == Activation::kNone) {
      return multiply_along_blocks<In>(whole, depth);
    }
  }

  // The parts may depend on the number of threads: multiply() computes the same bits for every cut of c.
  const int64_t work = m * n * std::max<int64_t>(k, 1);
  const int64_t threads = thread_pool().threads();
  if (threads == 1 || batch * work < kSerialWork) {
    for (int64_t i = 0; i < batch; ++i) multiply(one_matrix(i));
    return;
  }
  const int64_t wanted =
      std::min((threads + batch - 1) / batch, std::max<int64_t>(1, work / (kSerialWork / 2)));
  const int64_t across = std::clamp<int64_t>(n / kNarrowestPart, 1, wanted);
  const int64_t down = std::clamp<int64_t>(m / 8, 1, (wanted + across - 1) / across);
  const int64_t width = ((n + across - 1) / across + 31) / 32 * 32;
  // Parts of rows that lie in memory begin at a line of the cache.
  const int64_t lines = whole.transpose_a ? 16 : 1;
  const int64_t height = ((m + down - 1) / down + lines - 1) / lines * lines;
  const int64_t group = std::max<int64_t>(1, kSerialWork / 2 / work);  // small matrices go in groups
  if (across * down > 1) {
    thread_pool().run(batch * across * down, [&](int64_t tile) {
      Product<In, Out> part = one_matrix(tile / (across * down));
      const int64_t column = tile % across * width, row = tile / across % down * height;
      part.m = std::min(height, m - row);
      part.n = std::min(width, n - column);
      if (part.m <= 0 || part.n <= 0) return;
      part.a += part.transpose_a ? row : row * part.lda;
      part.b += part.transpose_b ? column * part.ldb : column;
      part.c += row * part.ldc + column;
      if (part.bias) part.bias += column;
      multiply(part);
    });
  } else {
    parallel_ranges(batch, group, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) multiply(one_matrix(i));
    });
  }
}

}  // namespace

void CpuBackend::matmul(const MatmulArguments& arguments) {
  const MatmulArguments& a = arguments;
  check_product(a);
  // In 16 bits a GELU is of the rounded argument, stored or not.
  const bool rounded = size_of(a.output) == 2 && a.activation != Activation::kRelu;
  MatmulArguments product = a;
  if (a.argument != nullptr) product.c = a.argument;
  if (a.argument != nullptr || a.derivative_at != nullptr || rounded) product.activation = Activation::kNone;
  dispatch_floating("matmul", a.dtype, [&]<class In>(In) {
    using Wide = Accumulation<In>;
    if (a.output == a.dtype) return multiply_batch<In, In>(product);
    if (a.output == dtype_of<Wide>) return multiply_batch<In, Wide>(product);
    fail_dtype("matmul: output", a.output);
  });
  const int64_t elements = a.batch * a.m * a.n;
  if (a.activation != product.activation) {
    const UnaryOp op = unary_of(a.activation);
    if (a.derivative_at != nullptr) {
      unary_backward(op, a.output, elements, a.derivative_at, a.derivative_at, a.c, a.c);
    } else {
      unary(op, a.output, elements, product.c, a.c);
    }
  }
  if (a.column_sums != nullptr) sum_columns(a.dtype, a.k, a.n, a.b, a.column_sums);
}

}  // namespace lockstep
