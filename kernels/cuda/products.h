// Matrix products through cuBLASLt: one handle a queue, one plan a shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/plan_table.h"

namespace lockstep {

// Error (kInternal) that names the type, unless products of it exist.
cudaDataType_t product_type(DType dtype);

// The products of one stream. What a product computes depends on its shape, its types, how far its pointers
// are aligned (up to 16 bytes), on the choices in the table, on the library and on the model of GPU; not on
// what ran before.
class Products {
 public:
  // workspace: kWorkspaceBytes of device memory. It and the table stay for as long as this lives.
  Products(cudaStream_t stream, void* workspace, PlanTable& table);
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Enough for every algorithm of the library on GPUs of today.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  // What the library does on the way out of a product. c is not fp64 where it does anything.
  struct Epilogue {
    const void* bias = nullptr;  // (n), of the type of c
    // What becomes of z = op(a) op(b) + bias: c = z, or gelu_tanh(z), or z gelu_tanh'(argument).
    enum class Gelu : uint8_t { kNone, kValue, kDerivative } gelu = Gelu::kNone;
    // (batch, m, n), of the type of c; n is a multiple of 8. z, to be stored, where kValue (may be null
    // then).
    void* argument = nullptr;
    void* column_sums = nullptr;  // (n), of the type of c: sums of the columns of b over k; with nothing else

    bool operator==(const Epilogue&) const = default;
  };

  // c = op(a) op(b), to which c itself is added when it is to accumulate, and the epilogue. Extents are at
  // least 1. The product's own bias, activation, argument and sums are left to the caller. False, and nothing
  // done, where the library has no algorithm for it.
  //
  // A product that the table holds no choice for takes the library's first proposal; where the table is to be
  // tuned, this waits, times the library's proposals with these operands, and inserts the fastest.
  bool run(const MatmulArguments& product, const Epilogue& epilogue, bool accumulate);

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
    Epilogue::Gelu gelu;
    bool argument, column_sums;
    uint32_t alignment_a, alignment_b, alignment_c, alignment_bias, alignment_argument;  // bytes
    int64_t batch, m, n, k, batch_stride_a, batch_stride_b;
    auto operator<=>(const Shape&) const = default;
    std::string text() const;  // as the table calls it
  };
  // d = op(a) op(b), to which c is added where the shape accumulates.
  struct Operands {
    const void *a, *b, *c;
    void* d;
  };
  // A plain value that any process may use on the same model of GPU with the same library. (nvcc does not
  // compile containers of the library's type itself, which has no name of its own.)
  struct Algorithm {
    cublasLtMatmulAlgo_t value = {};
  };
  // The library's descriptions of a shape, and the algorithm chosen for it.
  struct Plan {
    Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> description;
    Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> a, b, c;
    bool exists = false;  // an algorithm
    Algorithm algorithm;
  };

  const Plan& plan_for(const Shape& shape, const Operands& operands, const Epilogue& epilogue);
  Plan describe(const Shape& shape, const Epilogue& epilogue) const;
  // Tells the library where what the epilogue reads and writes lies.
  static void point(cublasLtMatmulDesc_t description, const Epilogue& epilogue);
  void choose(Plan& plan, const Shape& shape, const Operands& operands);
  // The library's proposals, best expectation first; `most` at most.
  std::vector<Algorithm> proposals(const Plan& plan, const Shape& shape, int most) const;
  // Whether the text is an algorithm that computes the product in a defined order, within the workspace.
  bool accept(const std::string& choice, const Plan& plan, Algorithm* algorithm) const;
  // Seconds of each candidate, infinite where it does not run after all. Empty when there is no memory to
  // try.
  std::vector<double> time(const std::vector<Algorithm>& candidates, const Plan& plan, const Shape& shape,
                           const Operands& operands) const;
  cublasStatus_t launch(const Algorithm& algorithm, const Plan& plan, const Shape& shape,
                        const Operands& operands) const;

  cudaStream_t stream_;
  void* workspace_;
  PlanTable& table_;
  uint64_t generation_;  // of the table, when plans_ was empty last
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<Shape, Plan> plans_;
};

}  // namespace lockstep
