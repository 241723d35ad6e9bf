// Matrix products: cuBLASLt with explicit workspace, then whatever the library cannot do on the way out of
// the product as we define it; a plain kernel where it has no algorithm.
//
// The library's only GELU is the tanh form, of which it does not say how exact it is: it serves 16-bit
// results, whose rounding is coarser, and wider ones get ours. Nor does it say what becomes of infinite
// arguments, where ours is 0 or the argument. Its ReLU may swallow NaN. The exact GELU, ReLU and what else
// remains run in a pass of our own. The library adds a bias of the result's type alone: of 16-bit results the
// bias is rounded to 16 bits first.
#include <memory>

#include "lockstep/core/error.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/products.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/unary.h"

namespace lockstep {

namespace {

constexpr int kThreads = 256;

// c[i] = Function(c[i] + bias[i % n]), in place; bias may be null.
template <class Function, class S>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(int64_t elements, int64_t n, const Accumulation<S>* bias, S* c) {
  const int64_t i = global_thread();
  if (i >= elements) return;
  Accumulation<S> x = widen(c[i]);
  if (bias != nullptr) x = x + bias[i % n];
  // As where the argument is stored: a 16-bit GELU is of what is left of it (ReLU has the same bits either
  // way).
  if constexpr (sizeof(S) == 2) x = widen(rounded<S>(x));
  c[i] = rounded<S>(Function::value(x));
}

struct Identity {
  template <class T>
  LOCKSTEP_FORMULA static T value(T x) {
    return x;
  }
};

template <class S>
void finish(Activation activation, int64_t elements, int64_t n, const void* bias, void* c,
            cudaStream_t stream) {
  using T = Accumulation<S>;
  void (*kernel)(int64_t, int64_t, const T*, S*) = finish_kernel<Identity, S>;
  if (activation == Activation::kRelu) kernel = finish_kernel<math::Relu, S>;
  if (activation == Activation::kGelu) kernel = finish_kernel<math::GeluFor<S>, S>;
  if (activation == Activation::kGeluTanh) kernel = finish_kernel<math::GeluTanhFor<S>, S>;
  LOCKSTEP_LAUNCH(kernel, blocks_for(elements, kThreads), kThreads, 0, stream, elements, n,
                  static_cast<const T*>(bias), static_cast<S*>(c));
}

// Matrices by the elements between neighbours: op(a) (m,k), op(b) (k,n).
struct PlainProduct {
  int64_t m, n, k, tiles_m, tiles_n;
  int64_t a_row, a_column, b_row, b_column;
  int64_t batch_stride_a, batch_stride_b;
  bool accumulate;
};

constexpr int kTile = 16;

// A block computes a tile of c, a thread an element: a sum in order of k, to which c is added at the end.
template <class S, class R>
__global__ void __launch_bounds__(kTile* kTile)
    plain_product_kernel(PlainProduct p, const S* a, const S* b, R* c) {
  using T = Accumulation<S>;
  LOCKSTEP_SHARED(T, tile_a, [kTile][kTile + 1]);
  LOCKSTEP_SHARED(T, tile_b, [kTile][kTile + 1]);
  const int x = static_cast<int>(threadIdx.x) % kTile, y = static_cast<int>(threadIdx.x) / kTile;
  const int64_t tile = static_cast<int64_t>(blockIdx.x), index = tile / (p.tiles_m * p.tiles_n);
  const int64_t row = tile / p.tiles_n % p.tiles_m * kTile + y, column = tile % p.tiles_n * kTile + x;
  a += index * p.batch_stride_a;
  b += index * p.batch_stride_b;
  T sum = 0;
  for (int64_t first = 0; first < p.k; first += kTile) {
    const bool in_a = row < p.m && first + x < p.k, in_b = first + y < p.k && column < p.n;
    tile_a[y][x] = in_a ? widen(a[row * p.a_row + (first + x) * p.a_column]) : T(0);
    tile_b[y][x] = in_b ? widen(b[(first + y) * p.b_row + column * p.b_column]) : T(0);
    __syncthreads();
    LOCKSTEP_UNROLL
    for (int i = 0; i < kTile; ++i) sum = sum + tile_a[y][i] * tile_b[i][x];
    __syncthreads();
  }
  if (row >= p.m || column >= p.n) return;
  R& result = c[(index * p.m + row) * p.n + column];
  if (p.accumulate) sum = sum + widen(result);
  result = rounded<R>(sum);
}

// c = op(a) op(b), to which c itself is added when it is to accumulate.
void multiply_plainly(const MatmulArguments& product, bool accumulate, cudaStream_t stream) {
  const MatmulArguments& q = product;
  const auto tiles = [](int64_t extent) { return (extent + kTile - 1) / kTile; };
  const bool ta = q.transpose_a, tb = q.transpose_b;
  const PlainProduct p{
      q.m,          q.n,          q.k,          tiles(q.m),       tiles(q.n),       ta ? 1 : q.k,
      ta ? q.m : 1, tb ? 1 : q.n, tb ? q.k : 1, q.batch_stride_a, q.batch_stride_b, accumulate};
  const unsigned blocks = blocks_for(q.batch * p.tiles_m * p.tiles_n, 1);
  dispatch_floating("matmul", q.dtype, [&](auto type) {
    using S = decltype(type);
    const auto launch_for = [&](auto result) {
      using R = decltype(result);
      LOCKSTEP_LAUNCH((plain_product_kernel<S, R>), blocks, kTile * kTile, 0, stream, p,
                      static_cast<const S*>(q.a), static_cast<const S*>(q.b), static_cast<R*>(q.c));
    };
    if (q.output == q.dtype) {
      launch_for(S{});
    } else {
      launch_for(Accumulation<S>{});
    }
  });
}

}  // namespace

void CudaBackend::matmul(const MatmulArguments& arguments) {
  multiply(arguments, false);
}

const void* CudaBackend::narrow_bias(DType dtype, int64_t n, const void* bias) {
  if (n > narrow_bias_elements_) {
    outgrow(narrow_bias_);
    narrow_bias_elements_ = 0;
    narrow_bias_ = require(static_cast<size_t>(n) * sizeof(uint16_t), "a bias in 16 bits");
    narrow_bias_elements_ = n;
  }
  cast(DType::kF32, dtype, n, bias, narrow_bias_);
  return narrow_bias_;
}

void CudaBackend::add_bias(DType dtype, int64_t elements, int64_t n, const void* bias, void* y) {
  dispatch_floating("bias", dtype, [&](auto type) {
    finish<decltype(type)>(Activation::kNone, elements, n, bias, y, stream());
  });
}

void CudaBackend::multiply(const MatmulArguments& arguments, bool accumulate) {
  const MatmulArguments& a = arguments;
  check_product(a);
  product_type(a.dtype);
  if (a.output != a.dtype && a.output != accumulation_type(a.dtype)) fail_dtype("matmul: output", a.output);
  const int64_t elements = a.batch * a.m * a.n;
  if (elements == 0) {
    if (a.column_sums != nullptr) sum_columns(a.dtype, a.k, a.n, a.b, a.column_sums);
    return;
  }
  make_current();
  if (product_workspace_ == nullptr)
    product_workspace_ = require(Products::kWorkspaceBytes, "workspace of matrix products");
  if (!products_) products_ = std::make_unique<Products>(stream_, product_workspace_, *plans_);
  // What the library is asked to do on the way: it adds no bias to fp64, and to 16-bit results one of their
  // type.
  using Gelu = Products::Epilogue::Gelu;
  const bool wide = a.dtype == DType::kF64, narrow = size_of(a.output) == 2;
  Products::Epilogue epilogue;
  if (a.bias != nullptr && !wide) epilogue.bias = narrow ? narrow_bias(a.output, a.n, a.bias) : a.bias;
  if (a.activation == Activation::kGeluTanh && narrow && a.n % 8 == 0) {
    epilogue.gelu = a.derivative_at != nullptr ? Gelu::kDerivative : Gelu::kValue;
    epilogue.argument = a.derivative_at != nullptr ? const_cast<void*>(a.derivative_at) : a.argument;
  }
  if (a.output == accumulation_type(a.dtype) && !wide) epilogue.column_sums = a.column_sums;

  MatmulArguments product = a;
  const auto multiply_by_library = [&] {
    product.c = epilogue.gelu == Gelu::kNone && a.argument != nullptr ? a.argument : a.c;
    return products_->run(product, epilogue, accumulate);
  };
  if (a.k > 0) {
    // Less on the way where the library has no algorithm for more.
    bool done = multiply_by_library();
    if (!done && epilogue.gelu != Gelu::kNone) {
      epilogue.gelu = Gelu::kNone;
      epilogue.argument = nullptr;
      done = multiply_by_library();
    }
    if (!done && epilogue != Products::Epilogue()) {
      epilogue = {};
      done = multiply_by_library();
    }
    if (!done) multiply_plainly(product, accumulate, stream_);
  } else {
    epilogue = {};
    if (a.argument != nullptr) product.c = a.argument;
    if (!accumulate) {
      check_cuda(cudaMemsetAsync(product.c, 0, static_cast<size_t>(elements) * size_of(a.output), stream_),
                 "matmul");
    }
  }

  // What remains.
  const void* const bias = epilogue.bias == nullptr ? a.bias : nullptr;
  const Activation activation = epilogue.gelu == Gelu::kNone ? a.activation : Activation::kNone;
  const bool in_place =
      activation != Activation::kNone && a.argument == nullptr && a.derivative_at == nullptr;
  if (bias != nullptr || in_place) {
    dispatch_floating("matmul", a.output, [&](auto type) {
      finish<decltype(type)>(in_place ? activation : Activation::kNone, elements, a.n, bias, product.c,
                             stream_);
    });
  }
  if (activation != Activation::kNone && a.derivative_at != nullptr) {
    unary_backward(unary_of(activation), a.output, elements, a.derivative_at, a.derivative_at, a.c, a.c);
  } else if (activation != Activation::kNone && a.argument != nullptr) {
    unary(unary_of(activation), a.output, elements, a.argument, a.c);
  }
  if (a.column_sums != nullptr && epilogue.column_sums == nullptr) {
    sum_columns(a.dtype, a.k, a.n, a.b, a.column_sums);
  }
}

}  // namespace lockstep
