// Matrix products: cuBLASLt with explicit workspace, then bias and activation where the library cannot add
// them as we define them.
//
// cuBLASLt's GELU is the tanh form and ours is exact, and its ReLU may swallow NaN: activations run in a pass
// of our own. The library adds a bias of the result's type alone: of 16-bit results the bias is rounded to 16
// bits first.
#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "core/error.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/products.h"
#include "kernels/dispatch.h"
#include "kernels/math/unary.h"

namespace lockstep {

namespace {

void check_products(cublasStatus_t status, const char* where) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorKind::kInternal, std::string("cuda: ") + where + ": " + cublasLtGetStatusString(status));
}

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return CUDA_R_64F;
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      fail_dtype("matmul", dtype);
  }
}

// The largest power of two up to 16 that divides the addresses of all matrices, `stride` bytes apart.
uint32_t alignment_of(const void* address, int64_t stride = 0) {
  const auto bits = reinterpret_cast<uintptr_t>(address) | static_cast<uintptr_t>(stride) | 16;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

template <class T>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check_products(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof(value)),
                 "product description");
}

// A row-major matrix (rows, columns) is the library's column-major (columns, rows).
cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns, int64_t batch,
                              int64_t batch_stride) {
  cublasLtMatrixLayout_t result = nullptr;
  check_products(cublasLtMatrixLayoutCreate(&result, data_type(dtype), static_cast<uint64_t>(columns),
                                            static_cast<uint64_t>(rows), columns),
                 "matrix layout");
  if (batch > 1) {
    const auto count = static_cast<int32_t>(batch);
    check_products(
        cublasLtMatrixLayoutSetAttribute(result, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)),
        "matrix layout");
    check_products(cublasLtMatrixLayoutSetAttribute(result, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                    &batch_stride, sizeof(batch_stride)),
                   "matrix layout");
  }
  return result;
}

}  // namespace

Products::Products(cudaStream_t stream, void* workspace) : stream_(stream), workspace_(workspace) {
  cublasLtHandle_t handle = nullptr;
  check_products(cublasLtCreate(&handle), "cuBLASLt");
  handle_.reset(handle);
}

const Products::Plan& Products::plan_for(const Shape& shape, const void* bias) {
  const auto found = plans_.find(shape);
  if (found != plans_.end()) return found->second;

  Plan plan;
  const bool wide = shape.dtype == DType::kF64;
  // CUBLAS_COMPUTE_32F is IEEE fp32 for fp32 operands, never TF32.
  cublasLtMatmulDesc_t description = nullptr;
  check_products(cublasLtMatmulDescCreate(&description, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                          wide ? CUDA_R_64F : CUDA_R_32F),
                 "product description");
  plan.description.reset(description);
  // Row-major c = op(a) op(b) is column-major c' = op(b)' op(a)': the operands change places and keep their
  // transposition.
  set(description, CUBLASLT_MATMUL_DESC_TRANSA,
      static_cast<int32_t>(shape.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(description, CUBLASLT_MATMUL_DESC_TRANSB,
      static_cast<int32_t>(shape.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
  if (shape.bias) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_BIAS));
    set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  const bool ta = shape.transpose_a, tb = shape.transpose_b;
  plan.a.reset(
      layout(shape.dtype, ta ? shape.k : shape.m, ta ? shape.m : shape.k, shape.batch, shape.batch_stride_a));
  plan.b.reset(
      layout(shape.dtype, tb ? shape.n : shape.k, tb ? shape.k : shape.n, shape.batch, shape.batch_stride_b));
  plan.c.reset(layout(shape.output, shape.m, shape.n, shape.batch, shape.m * shape.n));

  cublasLtMatmulPreference_t preference = nullptr;
  check_products(cublasLtMatmulPreferenceCreate(&preference), "product preference");
  const Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> owned_preference(preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_products(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
                   "product preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  // Where k is split, partial sums stay in the accumulation type and are added by a separate pass in order.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.alignment_b);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.alignment_a);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.alignment_c);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.alignment_c);
  cublasLtMatmulHeuristicResult_t candidate = {};
  int candidates = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_.get(), description, plan.b.get(), plan.a.get(), plan.c.get(),
                                     plan.c.get(), preference, 1, &candidate, &candidates);
  if (status != CUBLAS_STATUS_SUCCESS || candidates == 0) {
    fail(ErrorKind::kInternal, "matmul: cuBLASLt has no algorithm for " + std::to_string(shape.batch) +
                                   " products (" + std::to_string(shape.m) + "," + std::to_string(shape.k) +
                                   ") x (" + std::to_string(shape.k) + "," + std::to_string(shape.n) +
                                   ") of " + std::string(name_of(shape.dtype)) + ": " +
                                   cublasLtGetStatusString(status));
  }
  plan.algorithm = candidate.algo;
  return plans_.emplace(shape, std::move(plan)).first->second;
}

void Products::run(const MatmulArguments& product, const void* bias, bool accumulate) {
  const auto apart = [&](int64_t stride, DType dtype) {
    return product.batch > 1 ? stride * static_cast<int64_t>(size_of(dtype)) : 0;
  };
  const Shape shape{product.dtype,
                    product.output,
                    product.transpose_a,
                    product.transpose_b,
                    accumulate,
                    bias != nullptr,
                    alignment_of(product.a, apart(product.batch_stride_a, product.dtype)),
                    alignment_of(product.b, apart(product.batch_stride_b, product.dtype)),
                    alignment_of(product.c, apart(product.m * product.n, product.output)),
                    alignment_of(bias),
                    product.batch,
                    product.m,
                    product.n,
                    product.k,
                    product.batch_stride_a,
                    product.batch_stride_b};
  const Plan& plan = plan_for(shape, bias);
  if (shape.bias) set(plan.description.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const float narrow[2] = {1.0f, accumulate ? 1.0f : 0.0f};
  const double wide[2] = {narrow[0], narrow[1]};
  const bool is_wide = product.dtype == DType::kF64;
  const void* const alpha = is_wide ? static_cast<const void*>(&wide[0]) : &narrow[0];
  const void* const beta = is_wide ? static_cast<const void*>(&wide[1]) : &narrow[1];
  check_products(cublasLtMatmul(handle_.get(), plan.description.get(), alpha, product.b, plan.b.get(),
                                product.a, plan.a.get(), beta, product.c, plan.c.get(), product.c,
                                plan.c.get(), &plan.algorithm, workspace_, kWorkspaceBytes, stream_),
                 "matmul");
}

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
  if (activation == Activation::kGelu) kernel = finish_kernel<math::Gelu, S>;
  LOCKSTEP_LAUNCH(kernel, blocks_for(elements, kThreads), kThreads, 0, stream, elements, n,
                  static_cast<const T*>(bias), static_cast<S*>(c));
}

}  // namespace

void CudaBackend::matmul(const MatmulArguments& arguments) {
  multiply(arguments, false);
}

void CudaBackend::multiply(const MatmulArguments& arguments, bool accumulate) {
  const MatmulArguments& a = arguments;
  data_type(a.dtype);
  if (a.output != a.dtype && a.output != accumulation_type(a.dtype)) fail_dtype("matmul: output", a.output);
  const int64_t elements = a.batch * a.m * a.n;
  if (elements == 0) return;
  make_current();
  if (product_workspace_ == nullptr)
    product_workspace_ = require(Products::kWorkspaceBytes, "workspace of matrix products");
  if (!products_) products_ = std::make_unique<Products>(stream_, product_workspace_);
  const void* bias = a.bias;  // what is still to be added
  if (a.k > 0) {
    // The library adds no bias to fp64, and to 16-bit results one of their type.
    const void* added = a.dtype == DType::kF64 ? nullptr : bias;
    if (added != nullptr && size_of(a.output) == 2) {
      if (a.n > narrow_bias_elements_) {
        outgrow(narrow_bias_);
        narrow_bias_elements_ = 0;
        narrow_bias_ = require(static_cast<size_t>(a.n) * sizeof(uint16_t), "bias of a matrix product");
        narrow_bias_elements_ = a.n;
      }
      cast(DType::kF32, a.output, a.n, bias, narrow_bias_);
      added = narrow_bias_;
    }
    products_->run(a, added, accumulate);
    if (added != nullptr) bias = nullptr;
  } else if (!accumulate) {
    check_cuda(cudaMemsetAsync(a.c, 0, static_cast<size_t>(elements) * size_of(a.output), stream_), "matmul");
  }
  if (bias == nullptr && a.activation == Activation::kNone) return;
  dispatch_floating("matmul", a.output, [&](auto type) {
    finish<decltype(type)>(a.activation, elements, a.n, bias, a.c, stream_);
  });
}

}  // namespace lockstep
