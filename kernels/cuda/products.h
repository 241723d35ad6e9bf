// Matrix products through cuBLASLt: one handle a queue, one plan a shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>

#include "kernels/backend.h"

namespace lockstep {

// The products of one stream. What a product computes depends on its shape, its types and how far its
// pointers are aligned (up to 16 bytes), on the library and on the model of GPU; not on what ran before.
class Products {
 public:
  explicit Products(cudaStream_t stream);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // c = op(a) op(b) + bias, to which c itself is added when it is to accumulate. Extents are at least 1. The
  // bias, which may be null, is of the type of c, which is not fp64; the activation is left to the caller.
  void run(const MatmulArguments& product, const void* bias, bool accumulate);

  // Room for a bias of n elements of 16 bits, until the next call.
  void* narrow_bias(int64_t n);

 private:
  // What a plan depends on.
  struct Shape {
    DType dtype, output;
    bool transpose_a, transpose_b, accumulate, bias;
    uint32_t alignment_a, alignment_b, alignment_c, alignment_bias;  // bytes
    int64_t batch, m, n, k, batch_stride_a, batch_stride_b;
    auto operator<=>(const Shape&) const = default;
  };
  // The library's descriptions of a shape, and the algorithm chosen for it: a plain value that any process
  // may use on the same model of GPU with the same library.
  struct Plan {
    cublasLtMatmulDesc_t description = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  const Plan& plan_for(const Shape& shape, const void* bias);

  cudaStream_t stream_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  void* narrow_bias_ = nullptr;
  int64_t narrow_bias_elements_ = 0;
  std::map<Shape, Plan> plans_;
};

}  // namespace lockstep
