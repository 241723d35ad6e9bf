// Matrix products by plain loops, behind the checks that cuBLASLt makes.
//
// Inside, as in the library, a matrix is column-major: op(A) is (m,k), op(B) is (k,n), C and D are (m,n).
#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "lockstep/core/half_precision.h"
#include "memory.h"
#include "settings.h"
#include "streams.h"

namespace cuda_on_cpu {

struct BlasHandle {
  uint32_t magic = kMagic;
  static constexpr uint32_t kMagic = 0x4C744C74;
};

struct MatmulDescription {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;  // the type of D
  void* auxiliary = nullptr;
  int64_t auxiliary_leading_dimension = 0, auxiliary_batch_offset = 0;

  bool has(uint32_t part) const { return (epilogue & part) != 0; }
  // A vector with an element for each row of D, read or written.
  bool has_vector() const { return has(CUBLASLT_EPILOGUE_BIAS | CUBLASLT_EPILOGUE_BGRADA); }
  bool has_auxiliary() const { return has(kAuxiliary); }
  static constexpr uint32_t kAuxiliary = 128;
};

struct MatrixLayout {
  uint32_t type;
  uint64_t rows, columns;
  int64_t leading_dimension;
  int32_t order = CUBLASLT_ORDER_COL;
  int32_t batch_count = 1;
  int64_t batch_offset = 0;

  bool is_row_major() const { return order == CUBLASLT_ORDER_ROW; }
};

struct MatmulPreference {
  uint64_t workspace_bytes = 0;
  uint32_t reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t search_mode = 0;
  uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
};

namespace {

size_t size_of(uint32_t type) {
  switch (type) {
    case CUDA_R_64F:
      return 8;
    case CUDA_R_32F:
      return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF:
      return 2;
    default:
      return 0;
  }
}

cublasStatus_t refused(cublasStatus_t status, const std::string& why) {
  std::fprintf(stderr, "cuda_on_cpu: cublasLt: %s\n", why.c_str());
  return status;
}
cublasStatus_t invalid(const std::string& why) {
  return refused(CUBLAS_STATUS_INVALID_VALUE, why);
}
cublasStatus_t unsupported(const std::string& why) {
  return refused(CUBLAS_STATUS_NOT_SUPPORTED, why);
}

// What an algorithm's words mean.
struct Algorithm {
  static constexpr uint64_t kMark = 0x6C6F636B73746570;  // of algorithms that the heuristic made
  uint64_t mark = 0;
  int32_t id = 0;
  int32_t splits = 1;  // parts of k that are added separately
  uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
  uint32_t number = 0;          // among those that were proposed
  uint32_t alignments[4] = {};  // bytes that the addresses of A, B, C, D must be multiples of
  uint64_t unused[3] = {};
};
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));

struct Shape {
  int64_t m, n, k;
  int32_t batch;
};

// Success and the shape, or why these matrices cannot be multiplied.
cublasStatus_t shape_of(const MatmulDescription& description, const MatrixLayout& a, const MatrixLayout& b,
                        const MatrixLayout& c, const MatrixLayout& d, Shape* shape) {
  const char* const names[] = {"A", "B", "C", "D"};
  const MatrixLayout* const matrices[] = {&a, &b, &c, &d};
  for (int i = 0; i < 4; ++i) {
    const MatrixLayout& x = *matrices[i];
    const std::string name = names[i];
    if (size_of(x.type) == 0) return unsupported("type of " + name);
    if (x.rows == 0 || x.columns == 0) return invalid(name + " is empty");
    const auto line = static_cast<int64_t>(x.is_row_major() ? x.columns : x.rows);
    if (x.leading_dimension < line) {
      return invalid("leading dimension of " + name + " is " + std::to_string(x.leading_dimension) +
                     ", below " + std::to_string(line));
    }
    if (x.batch_count < 1 || x.batch_count != d.batch_count) return invalid("batch count of " + name);
    const auto lines = static_cast<int64_t>(x.is_row_major() ? x.rows : x.columns);
    if (i >= 2 && x.batch_count > 1 && x.batch_offset < (lines - 1) * x.leading_dimension + line) {
      return invalid("matrices of " + name + " overlap");
    }
  }
  if (description.compute == CUBLAS_COMPUTE_64F || description.compute == CUBLAS_COMPUTE_64F_PEDANTIC) {
    for (const MatrixLayout* x : matrices) {
      if (x->type != CUDA_R_64F) return unsupported("fp64 products need fp64 matrices");
    }
    if (description.scale != CUDA_R_64F) return unsupported("fp64 products need fp64 scales");
  } else {
    if (description.scale != CUDA_R_32F) return unsupported("fp32 products need fp32 scales");
    if (a.type == CUDA_R_64F || a.type != b.type) return unsupported("types of A and B");
    if (c.type != d.type || (d.type != a.type && d.type != CUDA_R_32F))
      return unsupported("types of C and D");
  }
  const bool ta = description.transpose_a != CUBLAS_OP_N, tb = description.transpose_b != CUBLAS_OP_N;
  const uint64_t m = ta ? a.columns : a.rows, k = ta ? a.rows : a.columns;
  const uint64_t n = tb ? b.rows : b.columns, k_of_b = tb ? b.columns : b.rows;
  if (k != k_of_b || d.rows != m || d.columns != n || c.rows != m || c.columns != n) {
    return invalid("shapes do not fit: op(A) (" + std::to_string(m) + "," + std::to_string(k) + "), op(B) (" +
                   std::to_string(k_of_b) + "," + std::to_string(n) + "), C (" + std::to_string(c.rows) +
                   "," + std::to_string(c.columns) + "), D (" + std::to_string(d.rows) + "," +
                   std::to_string(d.columns) + ")");
  }
  if (c.order != d.order) return unsupported("orders of C and D");
  const uint32_t epilogue = description.epilogue;
  if (description.has_vector()) {
    if (d.is_row_major()) return unsupported("bias of a row-major D");
    if (d.type == CUDA_R_64F) return unsupported("bias in fp64");
    const int32_t type = description.bias_type < 0 ? static_cast<int32_t>(d.type) : description.bias_type;
    if (type != static_cast<int32_t>(d.type)) return unsupported("bias of another type than D");
  }
  if (description.has(CUBLASLT_EPILOGUE_BGRADA) && d.batch_count > 1)
    return unsupported("bias gradients of a batch");
  if (description.has_auxiliary()) {
    const int64_t leading_dimension = description.auxiliary_leading_dimension;
    if (d.is_row_major()) return unsupported("auxiliary matrix of a row-major D");
    if (leading_dimension % 8 != 0 || leading_dimension < static_cast<int64_t>(d.rows) ||
        description.auxiliary_batch_offset % 8 != 0) {
      return invalid("leading dimension or batch offset of the auxiliary matrix");
    }
  }
  if (epilogue != CUBLASLT_EPILOGUE_DEFAULT && d.type == CUDA_R_64F) return unsupported("epilogue in fp64");
  *shape = {static_cast<int64_t>(m), static_cast<int64_t>(n), static_cast<int64_t>(k), d.batch_count};
  return CUBLAS_STATUS_SUCCESS;
}

size_t workspace_of(const Algorithm& algorithm, const Shape& shape) {
  if (algorithm.reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return 0;
  return static_cast<size_t>(algorithm.splits * shape.m * shape.n * shape.batch) * sizeof(double);
}

// False when the heuristic did not make it.
bool read(const cublasLtMatmulAlgo_t* algo, Algorithm* algorithm) {
  if (algo == nullptr) return false;
  *algorithm = std::bit_cast<Algorithm>(*algo);
  return algorithm->mark == Algorithm::kMark;
}

// ---- arithmetic
// --------------------------------------------------------------------------------------------------------

constexpr int64_t kTileM = 16, kTileN = 4;

template <class S>
struct Operand {
  const S* data;
  int64_t row, column;  // elements between neighbours of a column, and of a row

  Operand(const void* base, const MatrixLayout& layout, bool transpose, int64_t index)
      : data(static_cast<const S*>(base) + (layout.batch_count > 1 ? index * layout.batch_offset : 0)),
        row(layout.is_row_major() ? layout.leading_dimension : 1),
        column(layout.is_row_major() ? 1 : layout.leading_dimension) {
    if (transpose) std::swap(row, column);
  }
};

// panels[p][k][j] = x(p * width + j, k), or its transpose; columns that do not exist are zero.
template <class T, class S>
void pack(const Operand<S>& x, bool by_rows, int64_t extent, int64_t k, int64_t width, T* panels) {
  const int64_t along = by_rows ? x.row : x.column, across = by_rows ? x.column : x.row;
  for (int64_t first = 0; first < extent; first += width) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        *panels++ = first + j < extent ? static_cast<T>(x.data[(first + j) * along + i * across]) : T(0);
      }
    }
  }
}

// sums[j][i] = sum over [begin, end) of a[k][i] * b[k][j], in order of k. (Left to itself, GCC 12 makes
// vectors along k.)
template <class T>
void multiply_tile(const T* __restrict__ a, const T* __restrict__ b, int64_t begin, int64_t end,
                   T (&sums)[kTileN][kTileM]) {
  typedef T Lanes __attribute__((vector_size(32)));
  constexpr int64_t kLanes = 32 / sizeof(T), kVectors = kTileM / kLanes;
  Lanes local[kTileN][kVectors] = {};
  for (int64_t k = begin; k < end; ++k) {
    Lanes x[kVectors];
    std::memcpy(x, a + k * kTileM, sizeof x);
    for (int64_t j = 0; j < kTileN; ++j) {
      for (int64_t v = 0; v < kVectors; ++v) local[j][v] += x[v] * b[k * kTileN + j];
    }
  }
  std::memcpy(sums, local, sizeof sums);
}

// tanh(u(x)) of GELU.
template <class T>
T gelu_tangent(T x) {
  return std::tanh(T(0.7978845608028654) * (x + T(0.044715) * x * x * x));
}

template <class T>
T activate(uint32_t epilogue, T x) {
  if ((epilogue & CUBLASLT_EPILOGUE_RELU) != 0) return x > T(0) ? x : T(0);
  if ((epilogue & CUBLASLT_EPILOGUE_GELU) != 0) return T(0.5) * x * (T(1) + gelu_tangent(x));
  return x;
}

template <class T>
T gelu_derivative(T x) {
  const T tangent = gelu_tangent(x);
  return T(0.5) * (T(1) + tangent) +
         T(0.5) * x * (T(1) - tangent * tangent) * T(0.7978845608028654) * (T(1) + T(3 * 0.044715) * x * x);
}

struct Call {
  MatmulDescription description;
  MatrixLayout a_layout, b_layout, c_layout, d_layout;
  Algorithm algorithm;
  Shape shape;
  double alpha, beta;
  const void *a, *b, *c;
  void* d;
};

// S: type of A and B; R: type of C and D; T: type of sums.
template <class T, class S, class R>
void multiply(const Call& call) {
  const auto [m, n, k, batch] = call.shape;
  const bool ta = call.description.transpose_a != CUBLAS_OP_N,
             tb = call.description.transpose_b != CUBLAS_OP_N;
  const T alpha = static_cast<T>(call.alpha), beta = static_cast<T>(call.beta);
  const uint32_t epilogue = call.description.epilogue;
  const R* const bias =
      (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 ? static_cast<const R*>(call.description.bias) : nullptr;
  R* const auxiliary = static_cast<R*>(call.description.auxiliary);
  const auto panels_m = (m + kTileM - 1) / kTileM, panels_n = (n + kTileN - 1) / kTileN;
  std::vector<T> a_panels(static_cast<size_t>(panels_m * k * kTileM));
  std::vector<T> b_panels(static_cast<size_t>(panels_n * k * kTileN));
  for (int64_t index = 0; index < batch; ++index) {
    pack(Operand<S>(call.a, call.a_layout, ta, index), true, m, k, kTileM, a_panels.data());
    pack(Operand<S>(call.b, call.b_layout, tb, index), false, n, k, kTileN, b_panels.data());
    const Operand<R> c(call.c, call.c_layout, false, index), d(call.d, call.d_layout, false, index);
    if (epilogue == CUBLASLT_EPILOGUE_BGRADA) {
      R* const sums = static_cast<R*>(const_cast<void*>(call.description.bias));
      const Operand<S> x(call.a, call.a_layout, ta, index);
      for (int64_t row = 0; row < m; ++row) {
        T sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += static_cast<T>(x.data[row * x.row + i * x.column]);
        sums[row] = static_cast<R>(sum);
      }
    }
    for (int64_t pn = 0; pn < panels_n; ++pn) {
      for (int64_t pm = 0; pm < panels_m; ++pm) {
        const T* const a = a_panels.data() + pm * k * kTileM;
        const T* const b = b_panels.data() + pn * k * kTileN;
        T sums[kTileN][kTileM] = {};
        // Atomics add the parts in any order.
        const bool in_order = call.algorithm.reduction != CUBLASLT_REDUCTION_SCHEME_INPLACE;
        const int64_t splits = call.algorithm.splits,
                      turn = in_order ? 0 : static_cast<int64_t>(random_number() % 4);
        for (int64_t s = 0; s < splits; ++s) {
          const int64_t part = (s + turn) % splits;
          T partial[kTileN][kTileM];
          multiply_tile(a, b, part * k / splits, (part + 1) * k / splits, partial);
          for (int64_t j = 0; j < kTileN; ++j) {
            for (int64_t i = 0; i < kTileM; ++i)
              sums[j][i] = s == 0 ? partial[j][i] : sums[j][i] + partial[j][i];
          }
        }
        for (int64_t j = 0; j < std::min(kTileN, n - pn * kTileN); ++j) {
          for (int64_t i = 0; i < std::min(kTileM, m - pm * kTileM); ++i) {
            const int64_t row = pm * kTileM + i, column = pn * kTileN + j;
            T x = alpha * sums[j][i];
            if (beta != T(0)) x += beta * static_cast<T>(c.data[row * c.row + column * c.column]);
            if (bias != nullptr) x += static_cast<T>(bias[row]);
            if (call.description.has_auxiliary()) {
              R& other = auxiliary[index * call.description.auxiliary_batch_offset +
                                   column * call.description.auxiliary_leading_dimension + row];
              if (epilogue == CUBLASLT_EPILOGUE_DGELU) {
                x *= gelu_derivative(static_cast<T>(other));
              } else {
                other = static_cast<R>(x);
              }
            }
            const_cast<R*>(d.data)[row * d.row + column * d.column] = static_cast<R>(activate(epilogue, x));
          }
        }
      }
    }
  }
}

void run(const Call& call) {
  // By the clock of events, so that no machine is too slow for the difference to be seen.
  using std::chrono::milliseconds;
  const auto number = static_cast<int>(call.algorithm.number);
  spend_device_time(number == settings().fastest ? milliseconds(1000) : milliseconds(1200 + 50 * number));
  using lockstep::BFloat16;
  using lockstep::Float16;
  const bool wide = call.d_layout.type == CUDA_R_32F;
  switch (call.a_layout.type) {
    case CUDA_R_64F:
      return multiply<double, double, double>(call);
    case CUDA_R_32F:
      return multiply<float, float, float>(call);
    case CUDA_R_16BF:
      return wide ? multiply<float, BFloat16, float>(call) : multiply<float, BFloat16, BFloat16>(call);
    default:
      return wide ? multiply<float, Float16, float>(call) : multiply<float, Float16, Float16>(call);
  }
}

// Bytes from the first to past the last element of all matrices of a batch.
size_t extent_of(const MatrixLayout& x) {
  const auto lines = static_cast<int64_t>(x.is_row_major() ? x.rows : x.columns);
  const auto line = static_cast<int64_t>(x.is_row_major() ? x.columns : x.rows);
  const int64_t matrix = (lines - 1) * x.leading_dimension + line;
  return static_cast<size_t>(matrix + (x.batch_count - 1) * x.batch_offset) * size_of(x.type);
}

cublasStatus_t check_matrix(const char* name, const void* data, const MatrixLayout& layout,
                            uint32_t alignment) {
  if (!is_device_memory(data, extent_of(layout))) {
    return invalid(std::string(name) + " is not within one live buffer of device memory");
  }
  if (reinterpret_cast<uintptr_t>(data) % std::max<size_t>(alignment, size_of(layout.type)) != 0) {
    return invalid(std::string(name) + " is not aligned to " + std::to_string(alignment) +
                   " bytes, as was said when the algorithm was chosen");
  }
  return CUBLAS_STATUS_SUCCESS;
}

bool is_live(const BlasHandle* handle) {
  return handle != nullptr && handle->magic == BlasHandle::kMagic;
}

// Copies an attribute's value of exactly the type's size.
template <class T>
cublasStatus_t assign(T& field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return invalid("size of an attribute");
  std::memcpy(&field, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
      return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown status";
}
const char* cublasGetStatusString(cublasStatus_t status) {
  return cublasGetStatusName(status);
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
  return cublasGetStatusName(status);
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return cublasGetStatusName(status);
}
size_t cublasLtGetVersion() {
  return CUBLAS_VER_MAJOR * 10000 + CUBLAS_VER_MINOR * 100 + CUBLAS_VER_PATCH;
}
size_t cublasLtGetCudartVersion() {
  return CUDART_VERSION;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = new BlasHandle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (description == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *description = new MatmulDescription{compute, scale};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  if (description == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
      return assign(description->compute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
      return assign(description->scale, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: {
      int32_t mode = CUBLASLT_POINTER_MODE_HOST;
      const cublasStatus_t status = assign(mode, value, bytes);
      return mode == CUBLASLT_POINTER_MODE_HOST ? status : unsupported("scales in device memory");
    }
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return assign(description->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return assign(description->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: {
      uint32_t epilogue = 0;
      if (const cublasStatus_t status = assign(epilogue, value, bytes); status != CUBLAS_STATUS_SUCCESS)
        return status;
      constexpr uint32_t kKnown[] = {CUBLASLT_EPILOGUE_DEFAULT,  CUBLASLT_EPILOGUE_RELU,
                                     CUBLASLT_EPILOGUE_BIAS,     CUBLASLT_EPILOGUE_RELU_BIAS,
                                     CUBLASLT_EPILOGUE_GELU,     CUBLASLT_EPILOGUE_GELU_BIAS,
                                     CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                                     CUBLASLT_EPILOGUE_DGELU,    CUBLASLT_EPILOGUE_BGRADA};
      if (std::find(std::begin(kKnown), std::end(kKnown), epilogue) == std::end(kKnown))
        return unsupported("epilogue");
      description->epilogue = epilogue;
      return CUBLAS_STATUS_SUCCESS;
    }
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return assign(description->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return assign(description->auxiliary, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return assign(description->auxiliary_leading_dimension, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
      return assign(description->auxiliary_batch_offset, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return assign(description->bias_type, value, bytes);
  }
  return invalid("attribute of a product");
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t leading_dimension) {
  if (layout == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = new MatrixLayout{static_cast<uint32_t>(type), rows, columns, leading_dimension};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  if (layout == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return assign(layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return assign(layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return assign(layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return assign(layout->columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return assign(layout->leading_dimension, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return assign(layout->batch_count, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return assign(layout->batch_offset, value, bytes);
  }
  return invalid("attribute of a matrix");
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  if (preference == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *preference = new MatmulPreference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (preference == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
      return assign(preference->search_mode, value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return assign(preference->workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return assign(preference->reduction_schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return assign(preference->alignments[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return assign(preference->alignments[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return assign(preference->alignments[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return assign(preference->alignments[3], value, bytes);
  }
  return invalid("attribute of a preference");
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (description == nullptr || a == nullptr || b == nullptr || c == nullptr || d == nullptr ||
      preference == nullptr || requested < 1 || results == nullptr || returned == nullptr) {
    return invalid("heuristic: an argument is missing");
  }
  *returned = 0;
  Shape shape;
  if (const cublasStatus_t status = shape_of(*description, *a, *b, *c, *d, &shape);
      status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  const bool plain = description->epilogue == CUBLASLT_EPILOGUE_DEFAULT;
  if (!settings().products || (!plain && !settings().epilogues)) return CUBLAS_STATUS_NOT_SUPPORTED;
  Algorithm candidates[4];
  candidates[0].id = 2;
  candidates[0].splits = 4;
  candidates[0].reduction = CUBLASLT_REDUCTION_SCHEME_INPLACE;
  candidates[2].id = 1;
  candidates[2].splits = 2;
  candidates[2].reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  candidates[3].id = 1;
  candidates[3].splits = 3;
  candidates[3].reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  for (Algorithm& candidate : candidates) {
    if (*returned == requested) break;
    if ((candidate.reduction & ~preference->reduction_schemes) != 0) continue;
    if (candidate.splits > shape.k || workspace_of(candidate, shape) > preference->workspace_bytes) continue;
    candidate.mark = Algorithm::kMark;
    candidate.number = static_cast<uint32_t>(*returned);
    std::copy_n(preference->alignments, 4, candidate.alignments);
    cublasLtMatmulHeuristicResult_t& result = results[(*returned)++];
    result = {};
    result.algo = std::bit_cast<cublasLtMatmulAlgo_t>(candidate);
    result.workspaceSize = workspace_of(candidate, shape);
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1.0f;
  }
  return *returned > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  Shape shape;
  if (const cublasStatus_t status = shape_of(*description, *a, *b, *c, *d, &shape);
      status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  Algorithm algorithm;
  if (!read(algo, &algorithm)) return invalid("not an algorithm of this library");
  if (algorithm.splits > shape.k) return unsupported("algorithm splits k into more parts than it has");
  *result = {};
  result->algo = *algo;
  result->workspaceSize = workspace_of(algorithm, shape);
  result->wavesCount = 1.0f;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void* value, size_t bytes, size_t* written) {
  Algorithm algorithm;
  if (!read(algo, &algorithm)) return invalid("not an algorithm of this library");
  uint32_t word = 0;
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID:
      word = static_cast<uint32_t>(algorithm.id);
      break;
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
      word = 1;
      break;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
      word = static_cast<uint32_t>(algorithm.splits);
      break;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
      word = algorithm.reduction;
      break;
  }
  if (written != nullptr) *written = sizeof(word);
  if (value == nullptr || bytes < sizeof(word)) return invalid("size of an attribute");
  std::memcpy(value, &word, sizeof(word));
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (description == nullptr || alpha == nullptr || beta == nullptr || a_layout == nullptr ||
      b_layout == nullptr || c_layout == nullptr || d_layout == nullptr) {
    return invalid("product: an argument is missing");
  }
  Call call{*description, *a_layout, *b_layout, *c_layout, *d_layout, {}, {}, 0.0, 0.0, a, b, c, d};
  if (const cublasStatus_t status =
          shape_of(*description, *a_layout, *b_layout, *c_layout, *d_layout, &call.shape);
      status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  if (algo == nullptr) {
    std::fill_n(call.algorithm.alignments, 4, 16u);
  } else if (!read(algo, &call.algorithm)) {
    return invalid("not an algorithm of this library");
  }
  if (algo != nullptr && static_cast<int>(call.algorithm.number) == settings().unlaunchable)
    return unsupported("this algorithm does not run");
  if (call.algorithm.splits > call.shape.k) return invalid("algorithm splits k into more parts than it has");
  const size_t needed = workspace_of(call.algorithm, call.shape);
  if (workspace_bytes < needed) {
    return invalid("workspace of " + std::to_string(workspace_bytes) + " bytes, the algorithm needs " +
                   std::to_string(needed));
  }
  if (workspace_bytes > 0 &&
      (!is_device_memory(workspace, workspace_bytes) || reinterpret_cast<uintptr_t>(workspace) % 256 != 0)) {
    return invalid("workspace is not device memory, aligned to 256 bytes");
  }
  const bool wide = description->scale == CUDA_R_64F;
  call.alpha =
      wide ? *static_cast<const double*>(alpha) : static_cast<double>(*static_cast<const float*>(alpha));
  call.beta =
      wide ? *static_cast<const double*>(beta) : static_cast<double>(*static_cast<const float*>(beta));

  const uint32_t* const alignments = call.algorithm.alignments;
  cublasStatus_t status = check_matrix("A", a, *a_layout, alignments[0]);
  if (status == CUBLAS_STATUS_SUCCESS) status = check_matrix("B", b, *b_layout, alignments[1]);
  if (status == CUBLAS_STATUS_SUCCESS && call.beta != 0.0)
    status = check_matrix("C", c, *c_layout, alignments[2]);
  if (status == CUBLAS_STATUS_SUCCESS) status = check_matrix("D", d, *d_layout, alignments[3]);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const size_t element = size_of(d_layout->type);
  if (description->has_vector() && !is_device_memory(description->bias, d_layout->rows * element)) {
    return invalid("bias is not within one live buffer of device memory");
  }
  const auto columns_before = static_cast<int64_t>(d_layout->columns) - 1;
  const int64_t auxiliary_elements = (d_layout->batch_count - 1) * description->auxiliary_batch_offset +
                                     columns_before * description->auxiliary_leading_dimension +
                                     static_cast<int64_t>(d_layout->rows);
  if (description->has_auxiliary() &&
      !is_device_memory(description->auxiliary, static_cast<size_t>(auxiliary_elements) * element)) {
    return invalid("auxiliary matrix is not within one live buffer of device memory");
  }

  const cudaError_t error = enqueue(stream, "cublasLtMatmul", [call, workspace, needed] {
    if (needed > 0) poison(workspace, needed);
    run(call);
    return Progress::kDone;
  });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
