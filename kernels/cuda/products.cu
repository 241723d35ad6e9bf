// Describing products to cuBLASLt, and choosing among the algorithms that it proposes.
#include <algorithm>
#include <array>
#include <bit>
#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/kernels/cuda/dialect.h"
#include "lockstep/kernels/cuda/products.h"
#include "lockstep/kernels/cuda/stopwatch.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

void check_products(cublasStatus_t status, const char* where) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) check_cuda(cudaErrorMemoryAllocation, where);
  fail(ErrorKind::kInternal, std::string("cuda: ") + where + ": " + cublasLtGetStatusString(status));
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
  check_products(cublasLtMatrixLayoutCreate(&result, product_type(dtype), static_cast<uint64_t>(columns),
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

// Algorithms as text: their bytes, two hexadecimal digits each.
using AlgorithmBytes = std::array<unsigned char, sizeof(cublasLtMatmulAlgo_t)>;

std::string text_of(const cublasLtMatmulAlgo_t& algorithm) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : std::bit_cast<AlgorithmBytes>(algorithm))
    text += {kDigits[byte / 16], kDigits[byte % 16]};
  return text;
}

bool read_algorithm(const std::string& text, cublasLtMatmulAlgo_t* algorithm) {
  AlgorithmBytes bytes = {};
  if (text.size() != 2 * bytes.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char digit = text[i];
    const bool decimal = digit >= '0' && digit <= '9';
    if (!decimal && (digit < 'a' || digit > 'f')) return false;
    bytes[i / 2] = static_cast<unsigned char>(bytes[i / 2] * 16 + (decimal ? digit - '0' : digit - 'a' + 10));
  }
  *algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(bytes);
  return true;
}

// c's rows are the library's columns, and b is its A.
cublasLtEpilogue_t epilogue_of(const Products::Epilogue& epilogue) {
  using Gelu = Products::Epilogue::Gelu;
  if (epilogue.column_sums != nullptr) return CUBLASLT_EPILOGUE_BGRADA;
  if (epilogue.gelu == Gelu::kDerivative) return CUBLASLT_EPILOGUE_DGELU;
  if (epilogue.gelu == Gelu::kNone) {
    return epilogue.bias != nullptr ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
  if (epilogue.argument == nullptr) {
    return epilogue.bias != nullptr ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  }
  return epilogue.bias != nullptr ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
}

// They come in the order of the library's own expectation.
constexpr int kMostCandidates = 16;

}  // namespace

cudaDataType_t product_type(DType dtype) {
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

std::string Products::Shape::text() const {
  const auto numbers = [](std::initializer_list<int64_t> values, char between) {
    std::string text;
    for (const int64_t value : values) {
      if (!text.empty()) text += between;
      text += std::to_string(value);
    }
    return text;
  };
  std::string text = "matmul " + std::string(name_of(dtype)) + "->" + std::string(name_of(output)) + " ";
  text += {transpose_a ? 't' : 'n', transpose_b ? 't' : 'n'};
  if (bias) text += "+bias";
  if (gelu != Epilogue::Gelu::kNone) text += gelu == Epilogue::Gelu::kValue ? "+gelu" : "+dgelu";
  if (gelu == Epilogue::Gelu::kValue && argument) text += "+z";
  if (column_sums) text += "+sums";
  if (accumulate) text += "+c";
  text += " " + numbers({batch, m, n, k}, 'x');
  if (batch > 1) text += " strides " + numbers({batch_stride_a, batch_stride_b}, ',');
  text += " align " + numbers({alignment_a, alignment_b, alignment_c, alignment_bias}, ',');
  return argument ? text + "," + std::to_string(alignment_argument) : text;
}

Products::Products(cudaStream_t stream, void* workspace, PlanTable& table)
    : stream_(stream), workspace_(workspace), table_(table), generation_(table.generation()) {
  cublasLtHandle_t handle = nullptr;
  check_products(cublasLtCreate(&handle), "cuBLASLt");
  handle_.reset(handle);
}

void Products::point(cublasLtMatmulDesc_t description, const Epilogue& epilogue) {
  const void* const vector = epilogue.bias != nullptr ? epilogue.bias : epilogue.column_sums;
  if (vector != nullptr) set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
  if (epilogue.argument != nullptr) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.argument);
  }
}

Products::Plan Products::describe(const Shape& shape, const Epilogue& epilogue) const {
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
  set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(epilogue_of(epilogue)));
  if (epilogue.argument != nullptr) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, shape.n);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, shape.batch > 1 ? shape.m * shape.n : 0);
  }
  point(description, epilogue);
  const bool ta = shape.transpose_a, tb = shape.transpose_b;
  plan.a.reset(
      layout(shape.dtype, ta ? shape.k : shape.m, ta ? shape.m : shape.k, shape.batch, shape.batch_stride_a));
  plan.b.reset(
      layout(shape.dtype, tb ? shape.n : shape.k, tb ? shape.k : shape.n, shape.batch, shape.batch_stride_b));
  plan.c.reset(layout(shape.output, shape.m, shape.n, shape.batch, shape.m * shape.n));
  return plan;
}

std::vector<Products::Algorithm> Products::proposals(const Plan& plan, const Shape& shape, int most) const {
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
  std::array<cublasLtMatmulHeuristicResult_t, kMostCandidates> results = {};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_.get(), plan.description.get(), plan.b.get(), plan.a.get(),
                                     plan.c.get(), plan.c.get(), preference, most, results.data(), &found);
  std::vector<Algorithm> algorithms;
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return algorithms;
  check_products(status, shape.text().c_str());
  for (int i = 0; i < found; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = results[static_cast<size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back({result.algo});
  }
  return algorithms;
}

bool Products::accept(const std::string& choice, const Plan& plan, Algorithm* algorithm) const {
  cublasLtMatmulAlgo_t candidate = {};
  cublasLtMatmulHeuristicResult_t result = {};
  if (!read_algorithm(choice, &candidate) ||
      cublasLtMatmulAlgoCheck(handle_.get(), plan.description.get(), plan.b.get(), plan.a.get(), plan.c.get(),
                              plan.c.get(), &candidate, &result) != CUBLAS_STATUS_SUCCESS) {
    return false;
  }
  uint32_t reduction = 0;
  size_t written = 0;
  if (cublasLtMatmulAlgoConfigGetAttribute(&candidate, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                                           sizeof reduction, &written) != CUBLAS_STATUS_SUCCESS ||
      (reduction != CUBLASLT_REDUCTION_SCHEME_NONE && reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) ||
      result.workspaceSize > kWorkspaceBytes) {
    return false;
  }
  algorithm->value = candidate;
  return true;
}

std::vector<double> Products::time(const std::vector<Algorithm>& candidates, const Plan& plan,
                                   const Shape& shape, const Operands& operands) const {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  constexpr int kRounds = 5;
  // What takes this much longer than another candidate at first is not tried again.
  constexpr double kHopeless = 1.5;

  // c is read once, and written once.
  Operands trial = operands;
  std::unique_ptr<void, decltype(&cudaFree)> aside(nullptr, cudaFree);
  if (shape.accumulate) {
    const auto bytes = static_cast<size_t>(shape.batch * shape.m * shape.n) * size_of(shape.output);
    if (cudaMalloc(&trial.d, bytes) != cudaSuccess) {
      cudaGetLastError();
      return {};
    }
    aside.reset(trial.d);
  }
  std::vector<std::unique_ptr<Stopwatch>> stopwatches;
  std::vector<double> seconds;
  for (const Algorithm& candidate : candidates) {
    std::unique_ptr<Stopwatch>& stopwatch = stopwatches.emplace_back();
    if (launch(candidate, plan, shape, trial) == CUBLAS_STATUS_SUCCESS)
      stopwatch = std::make_unique<Stopwatch>(stream_, [&] { launch(candidate, plan, shape, trial); });
    seconds.push_back(stopwatch ? stopwatch->first_seconds() : kNever);
  }
  const double least = *std::min_element(seconds.begin(), seconds.end());
  std::vector<std::vector<double>> rounds(candidates.size());
  // In turns, so that a clock that changes changes for all.
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (seconds[i] != kNever && seconds[i] <= kHopeless * least)
        rounds[i].push_back(stopwatches[i]->seconds());
    }
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (rounds[i].empty()) continue;
    std::nth_element(rounds[i].begin(), rounds[i].begin() + kRounds / 2, rounds[i].end());
    seconds[i] = rounds[i][kRounds / 2];
  }
  return seconds;
}

void Products::choose(Plan& plan, const Shape& shape, const Operands& operands) {
  const std::string call = shape.text();
  if (const std::optional<std::string> choice = table_.find(call)) {
    plan.exists = accept(*choice, plan, &plan.algorithm);
    if (plan.exists) return;
    log_warning("plans: not an algorithm that cuBLASLt can use, and left out: \"" + *choice + "\" for " +
                call);
    table_.erase(call);
  }
  const PlanTable::Search search = table_.search();
  const std::vector<Algorithm> candidates =
      proposals(plan, shape, search.tune || search.candidate > 0 ? kMostCandidates : 1);
  plan.exists = !candidates.empty();
  if (!plan.exists) return;
  auto number = static_cast<size_t>(search.candidate);
  if (search.tune) {
    const std::vector<double> seconds = time(candidates, plan, shape, operands);
    number = fastest(seconds.data(), seconds.size());
  }
  plan.algorithm = candidates[number < candidates.size() ? number : 0];
  if (search.tune) table_.insert(call, text_of(plan.algorithm.value));
}

const Products::Plan& Products::plan_for(const Shape& shape, const Operands& operands,
                                         const Epilogue& epilogue) {
  if (generation_ != table_.generation()) {
    plans_.clear();
    generation_ = table_.generation();
  }
  const auto found = plans_.find(shape);
  if (found != plans_.end()) return found->second;
  Plan plan = describe(shape, epilogue);
  choose(plan, shape, operands);
  return plans_.emplace(shape, std::move(plan)).first->second;
}

cublasStatus_t Products::launch(const Algorithm& algorithm, const Plan& plan, const Shape& shape,
                                const Operands& operands) const {
  const float narrow[2] = {1.0f, shape.accumulate ? 1.0f : 0.0f};
  const double wide[2] = {1.0, shape.accumulate ? 1.0 : 0.0};
  const bool is_wide = shape.dtype == DType::kF64;
  const void* const alpha = is_wide ? static_cast<const void*>(&wide[0]) : &narrow[0];
  const void* const beta = is_wide ? static_cast<const void*>(&wide[1]) : &narrow[1];
  return cublasLtMatmul(handle_.get(), plan.description.get(), alpha, operands.b, plan.b.get(), operands.a,
                        plan.a.get(), beta, operands.c, plan.c.get(), operands.d, plan.c.get(),
                        &algorithm.value, workspace_, kWorkspaceBytes, stream_);
}

bool Products::run(const MatmulArguments& product, const Epilogue& epilogue, bool accumulate) {
  const auto apart = [&](int64_t stride, DType dtype) {
    return product.batch > 1 ? stride * static_cast<int64_t>(size_of(dtype)) : 0;
  };
  const Shape shape{product.dtype,
                    product.output,
                    product.transpose_a,
                    product.transpose_b,
                    accumulate,
                    epilogue.bias != nullptr,
                    epilogue.gelu,
                    epilogue.argument != nullptr,
                    epilogue.column_sums != nullptr,
                    alignment_of(product.a, apart(product.batch_stride_a, product.dtype)),
                    alignment_of(product.b, apart(product.batch_stride_b, product.dtype)),
                    alignment_of(product.c, apart(product.m * product.n, product.output)),
                    alignment_of(epilogue.bias != nullptr ? epilogue.bias : epilogue.column_sums),
                    alignment_of(epilogue.argument, apart(product.m * product.n, product.output)),
                    product.batch,
                    product.m,
                    product.n,
                    product.k,
                    product.batch_stride_a,
                    product.batch_stride_b};
  const Operands operands{product.a, product.b, product.c, product.c};
  const Plan& plan = plan_for(shape, operands, epilogue);
  if (!plan.exists) return false;
  point(plan.description.get(), epilogue);
  check_products(launch(plan.algorithm, plan, shape, operands), "matmul");
  return true;
}

}  // namespace lockstep
