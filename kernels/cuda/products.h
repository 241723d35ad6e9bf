// Matrix products through cuBLASLt: one handle a queue, one plan a shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>

#include "core/dtype.h"

namespace lockstep {

// c[i] = op(a[i]) op(b[i]) (+ c[i]) (+ bias) for i in [0, batch), row-major as in MatmulArguments, with the
// distance between rows of each stored matrix and between matrices. Extents are at least 1.
struct Product {
  DType dtype = DType::kF32;   // of a and b
  DType output = DType::kF32;  // of c: dtype or its accumulation type
  int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;  // add to what c holds
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t batch_stride_a = 0, batch_stride_b = 0, batch_stride_c = 0;
  const void* bias =
      nullptr;  // (n) of type `output`, added before the result is rounded; may be null; not in fp64
};

// The products of one stream. What a product computes depends on its shape, its types and how far its
// pointers are aligned (up to 16 bytes), on the library and on the model of GPU; not on what ran before.
class Products {
 public:
  explicit Products(cudaStream_t stream);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  void run(const Product& product);

 private:
  // What a plan depends on.
  struct Shape {
    DType dtype, output;
    bool transpose_a, transpose_b, accumulate, bias;
    uint32_t alignment_a, alignment_b, alignment_c, alignment_bias;  // bytes
    int64_t batch, m, n, k, lda, ldb, ldc, batch_stride_a, batch_stride_b, batch_stride_c;
    auto operator<=>(const Shape&) const = default;
  };
  // The library's descriptions of a shape, and the algorithm chosen for it: a plain value that any process
  // may use on the same model of GPU with the same library.
  struct Plan {
    cublasLtMatmulDesc_t description = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  const Plan& plan_for(const Shape& shape, const Product& product);

  cudaStream_t stream_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Shape, Plan> plans_;
};

}  // namespace lockstep
