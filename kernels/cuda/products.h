// Matrix products through cuBLASLt: one handle a queue, one plan a shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <type_traits>

#include "kernels/backend.h"

namespace lockstep {

// The products of one stream. What a product computes depends on its shape, its types and how far its
// pointers are aligned (up to 16 bytes), on the library and on the model of GPU; not on what ran before.
class Products {
 public:
  // workspace: kWorkspaceBytes of device memory, for as long as this lives.
  Products(cudaStream_t stream, void* workspace);
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Enough for every algorithm of the library on GPUs of today.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  // c = op(a) op(b) + bias, to which c itself is added when it is to accumulate. Extents are at least 1. The
  // bias, which may be null, is of the type of c, which is not fp64; the activation is left to the caller.
  void run(const MatmulArguments& product, const void* bias, bool accumulate);

 private:
  // A handle of the library's, which is a pointer, destroyed with its owner.
  template <class Handle, cublasStatus_t (*destroy)(Handle)>
  struct Destroy {
    using pointer = Handle;
    void operator()(Handle handle) const { destroy(handle); }
  };
  template <class Handle, cublasStatus_t (*destroy)(Handle)>
  using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<Handle, destroy>>;

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
    Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> description;
    Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> a, b, c;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  const Plan& plan_for(const Shape& shape, const void* bias);

  cudaStream_t stream_;
  void* workspace_;
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<Shape, Plan> plans_;
};

}  // namespace lockstep
