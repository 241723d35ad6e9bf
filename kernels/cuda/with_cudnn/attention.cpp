// Attention through cuDNN: the graphs that its fused kernels are found by, those of NVIDIA's own front end.
//
// The backward graph is the one whose dq is a matrix product like the others. The library also knows one that
// adds dq up in an array in memory: its sums have the order in which blocks happen to arrive, although no
// note of its engines says so.
#include "lockstep/kernels/cuda/with_cudnn/attention.h"

#include <algorithm>
#include <limits>

#include "lockstep/kernels/cuda/with_cudnn/operations.h"

namespace lockstep {

namespace {

// The arrays of a call as (batch, heads, position, number), and what lies between its operations.
struct Shapes {
  explicit Shapes(const AttentionArguments& arguments) : a(arguments) {}

  const AttentionArguments& a;
  const CudnnExtents queries{a.batch, a.heads, a.queries, a.size}, keys{a.batch, a.heads, a.keys, a.size};
  const CudnnExtents scores{a.batch, a.heads, a.queries, a.keys}, rows{a.batch, a.heads, a.queries, 1};
  const CudnnExtents scores_strides{a.heads * a.queries * a.keys, a.queries* a.keys, a.keys, 1};
  const CudnnExtents rows_strides{a.heads * a.queries, a.queries, 1, 1};

  CudnnExtents strides(int64_t positions, int64_t row) const { return {positions * row, a.size, row, 1}; }
  // Of the last two axes exchanged.
  static CudnnExtents transposed(const CudnnExtents& x) { return {x[0], x[1], x[3], x[2]}; }
};

// Building blocks of both graphs.
struct Builder {
  Builder(const AttentionArguments& arguments, CudnnGraph& into)
      : a(arguments), shapes(a), type(cudnn_type(a.dtype)), graph(into) {}

  const AttentionArguments& a;
  const Shapes shapes;
  const cudnnDataType_t type;
  CudnnGraph& graph;

  using Array = CudnnGraph::Array;
  Array of_queries(int64_t id, int64_t row) {
    return graph.array(id, type, shapes.queries, shapes.strides(a.queries, row));
  }
  Array of_keys(int64_t id, int64_t row) {
    return graph.array(id, type, shapes.keys, shapes.strides(a.keys, row));
  }
  Array of_keys_transposed(int64_t id, int64_t row) {
    return graph.array(id, type, Shapes::transposed(shapes.keys),
                       Shapes::transposed(shapes.strides(a.keys, row)));
  }
  Array of_rows(int64_t id) { return graph.array(id, CUDNN_DATA_FLOAT, shapes.rows, shapes.rows_strides); }
  Array scores(cudnnDataType_t of = CUDNN_DATA_FLOAT) {
    return graph.between(of, shapes.scores, shapes.scores_strides);
  }
  Array rows() { return graph.between(CUDNN_DATA_FLOAT, shapes.rows, shapes.rows_strides); }
  Array matmul(Array x, Array b, Array y) {
    graph.matmul(x, b, y);
    return y;
  }
  Array pointwise(cudnnPointwiseMode_t mode, Array x, Array y, const CudnnGraph::Pointwise& options = {}) {
    graph.pointwise(mode, x, y, options);
    return y;
  }
  Array reduce(cudnnReduceTensorOp_t operation, Array x, Array y) {
    graph.reduce(operation, x, y);
    return y;
  }
  // x (queries, keys) as what a product with its transpose reads.
  Array transposed(Array x) {
    Array y =
        graph.between(type, Shapes::transposed(shapes.scores), Shapes::transposed(shapes.scores_strides));
    graph.reshape(x, y);
    return y;
  }

  Array scaled_scores(Array q, Array k, Array scale) {
    return pointwise(CUDNN_POINTWISE_MUL, matmul(q, k, scores()), scores(), {.b = &scale});
  }
  // x, hidden where a causal query does not see.
  Array seen_scores(Array x) {
    if (!a.causal) return x;
    Array row = pointwise(CUDNN_POINTWISE_GEN_INDEX, x, scores(CUDNN_DATA_INT32),
                          {.precision = CUDNN_DATA_INT32, .axis = 2});
    Array column = pointwise(CUDNN_POINTWISE_GEN_INDEX, x, scores(CUDNN_DATA_INT32),
                             {.precision = CUDNN_DATA_INT32, .axis = 3});
    Array seen = pointwise(CUDNN_POINTWISE_CMP_GE, row, scores(CUDNN_DATA_BOOLEAN),
                           {.b = &column, .precision = CUDNN_DATA_BOOLEAN});
    Array masked = graph.scalar(kAttentionMasked, 4);
    return pointwise(CUDNN_POINTWISE_BINARY_SELECT, x, scores(), {.b = &masked, .t = &seen});
  }
};

}  // namespace

void build_attention(const AttentionArguments& a, CudnnGraph& graph) {
  Builder build(a, graph);
  using Array = CudnnGraph::Array;
  Array q = build.of_queries(kAttentionQ, a.q_row), k = build.of_keys_transposed(kAttentionK, a.k_row);
  Array v = build.of_keys(kAttentionV, a.v_row), y = build.of_queries(kAttentionY, a.heads * a.size);
  Array log_sums = build.of_rows(kAttentionLogSums), scale = graph.scalar(kAttentionScale, 4);
  Array scores = build.seen_scores(build.scaled_scores(q, k, scale));
  Array largest = build.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, build.rows());
  Array shifted = build.pointwise(CUDNN_POINTWISE_SUB, scores, build.scores(), {.b = &largest});
  Array powers = build.pointwise(CUDNN_POINTWISE_EXP, shifted, build.scores());
  Array sums = build.reduce(CUDNN_REDUCE_TENSOR_ADD, powers, build.rows());
  Array logarithms = build.pointwise(CUDNN_POINTWISE_LOG, sums, build.rows());
  build.pointwise(CUDNN_POINTWISE_ADD, largest, log_sums, {.b = &logarithms});
  Array weights = build.pointwise(CUDNN_POINTWISE_DIV, powers, build.scores(build.type), {.b = &sums});
  build.matmul(weights, v, y);
}

void build_attention_backward(const AttentionArguments& a, CudnnGraph& graph) {
  Builder build(a, graph);
  using Array = CudnnGraph::Array;
  const int64_t y_row = a.heads * a.size;
  Array q = build.of_queries(kAttentionQ, a.q_row), k = build.of_keys_transposed(kAttentionK, a.k_row);
  Array v = build.of_keys_transposed(kAttentionV, a.v_row);
  Array y = build.of_queries(kAttentionY, y_row), dy = build.of_queries(kAttentionDy, y_row);
  Array dq = build.of_queries(kAttentionDq, a.q_row);
  Array dk = build.of_keys(kAttentionDk, a.k_row), dv = build.of_keys(kAttentionDv, a.v_row);
  Array log_sums = build.of_rows(kAttentionLogSums), row_sums = build.of_rows(kAttentionRowSums);
  Array scale = graph.scalar(kAttentionScale, 4), one = graph.scalar(kAttentionOne, 4);

  // row_sums = sum of dy y over each row
  Array products = build.pointwise(CUDNN_POINTWISE_MUL, dy,
                                   graph.between(CUDNN_DATA_FLOAT, build.shapes.queries,
                                                 {a.queries * y_row, a.queries * a.size, y_row, 1}),
                                   {.b = &y});
  Array sums = build.reduce(CUDNN_REDUCE_TENSOR_ADD, products, build.rows());
  build.pointwise(CUDNN_POINTWISE_MUL, sums, row_sums, {.b = &one});
  // p = exp(scores - log_sums), dv = p' dy
  Array scores = build.scaled_scores(q, k, scale);
  Array shifted = build.pointwise(CUDNN_POINTWISE_SUB, scores, build.scores(), {.b = &log_sums});
  Array p = build.pointwise(CUDNN_POINTWISE_EXP, build.seen_scores(shifted), build.scores());
  build.matmul(build.transposed(p), dy, dv);
  // ds = scale p (dy v' - row_sums), dk = ds' q, dq = ds k
  Array dp = build.matmul(dy, v, build.scores());
  Array centered = build.pointwise(CUDNN_POINTWISE_SUB, dp, build.scores(), {.b = &row_sums});
  Array weighted = build.pointwise(CUDNN_POINTWISE_MUL, centered, build.scores(), {.b = &p});
  Array ds = build.pointwise(CUDNN_POINTWISE_MUL, weighted, build.scores(build.type), {.b = &scale});
  build.matmul(build.transposed(ds), q, dk);
  Array keys = graph.between(build.type, build.shapes.keys, build.shapes.strides(a.keys, a.k_row));
  graph.reshape(k, keys);
  build.matmul(ds, keys, dq);
}

namespace {

// Types and shapes that the graphs are right for. A causal query of cuDNN's sees keys up to its own number.
bool is_served(const AttentionArguments& a) {
  const bool narrow = a.dtype == DType::kBF16 || a.dtype == DType::kF16;
  return narrow && a.size % 8 == 0 && a.size <= 128 && (!a.causal || a.queries == a.keys) && a.batch > 0 &&
         a.heads > 0 && a.queries > 0 && a.keys > 0 && a.size > 0 && a.q_row % 8 == 0 && a.k_row % 8 == 0 &&
         a.v_row % 8 == 0;
}

// "bf16 b8 h12 q1024 k1024 d64 rows 2304 2304 2304 causal"
std::string name_of(const AttentionArguments& a) {
  const auto number = [](const char* what, int64_t value) { return what + std::to_string(value); };
  return std::string(lockstep::name_of(a.dtype)) + number(" b", a.batch) + number(" h", a.heads) +
         number(" q", a.queries) + number(" k", a.keys) + number(" d", a.size) + number(" rows ", a.q_row) +
         number(" ", a.k_row) + number(" ", a.v_row) + (a.causal ? " causal" : "");
}

// What hidden scores become, as the front end has it: kernels before version 9.10 do not take infinity.
float masked_score(size_t version) {
  constexpr size_t kInfinity = 91000;
  return version < kInfinity ? std::numeric_limits<float>::lowest() : -std::numeric_limits<float>::infinity();
}

// Device memory `elements` of `dtype` further on.
void* after(const void* array, int64_t elements, DType dtype) {
  return static_cast<char*>(const_cast<void*>(array)) + elements * static_cast<int64_t>(size_of(dtype));
}

}  // namespace

bool CudnnOperations::attention(const AttentionArguments& a, const void* q, const void* k, const void* v,
                                void* y, void* log_sums) {
  if (!is_served(a) || !cudnn_aligned({q, k, v, y, log_sums})) return false;
  const float scale = static_cast<float>(a.scale), masked = masked_score(library_.version());
  return serve(
      "attention " + name_of(a), a.dtype, [&](CudnnGraph& graph) { build_attention(a, graph); },
      [&](const CudnnPlan& plan) {
        run(plan,
            {{kAttentionQ, q},
             {kAttentionK, k},
             {kAttentionV, v},
             {kAttentionY, y},
             {kAttentionLogSums, log_sums},
             {kAttentionScale, &scale},
             {kAttentionMasked, &masked}},
            queue_.scratch(plan.workspace_bytes));
      });
}

bool CudnnOperations::attention_backward(const AttentionArguments& arguments, const void* q, const void* k,
                                         const void* v, const void* y, const void* log_sums, const void* dy,
                                         void* dq, void* dk, void* dv) {
  AttentionArguments a = arguments;
  if (!is_served(a) || !cudnn_aligned({q, k, v, y, log_sums, dy, dq, dk, dv})) return false;
  // Where the front end vouches for the same bits every time without a choice of its own: Ampere, Ada and
  // Hopper. Up to version 9.15 the kernels need keys by 128 or their lengths as arrays.
  constexpr size_t kAnyKeys = 91501;
  const int major = queue_.compute_capability / 10;
  if ((major != 8 && major != 9) || (library_.version() < kAnyKeys && a.keys % 128 != 0)) return false;
  // The kernels keep ds of a whole range in the working memory, in tiles of up to 128: ranges of the batch
  // that fit.
  const auto tiled = [](int64_t n) { return (n + 127) / 128 * 128; };
  constexpr int64_t kSpare = int64_t{1} << 20;
  const int64_t sample_bytes =
      a.heads * tiled(a.queries) * tiled(a.keys) * 2 + a.heads * tiled(a.queries) * int64_t{sizeof(float)};
  const int64_t most = (static_cast<int64_t>(kCudnnWorkspaceBytes) - kSpare) / sample_bytes;
  if (most == 0 || (most < a.batch && a.heads * a.queries % 4 != 0))
    return false;  // ranges are aligned as the whole
  const float scale = static_cast<float>(a.scale), one = 1.0f, masked = masked_score(library_.version());
  const int64_t range = std::min(most, a.batch);
  // The range that begins at sample `first`, by a plan for as many samples as it has.
  const auto run_range = [&](const CudnnPlan& plan, int64_t first) {
    const size_t sums_at = (plan.workspace_bytes + 255) / 256 * 256;
    void* const workspace =
        queue_.scratch(sums_at + static_cast<size_t>(range * a.heads * a.queries) * sizeof(float));
    const int64_t queries = first * a.queries, keys = first * a.keys, y_row = a.heads * a.size;
    run(plan,
        {{kAttentionQ, after(q, queries * a.q_row, a.dtype)},
         {kAttentionK, after(k, keys * a.k_row, a.dtype)},
         {kAttentionV, after(v, keys * a.v_row, a.dtype)},
         {kAttentionY, after(y, queries * y_row, a.dtype)},
         {kAttentionLogSums, after(log_sums, queries * a.heads, DType::kF32)},
         {kAttentionDy, after(dy, queries * y_row, a.dtype)},
         {kAttentionDq, after(dq, queries * a.q_row, a.dtype)},
         {kAttentionDk, after(dk, keys * a.k_row, a.dtype)},
         {kAttentionDv, after(dv, keys * a.v_row, a.dtype)},
         {kAttentionRowSums, static_cast<char*>(workspace) + sums_at},
         {kAttentionScale, &scale},
         {kAttentionMasked, &masked},
         {kAttentionOne, &one}},
        workspace);
  };
  // Plans of all ranges before the first one runs: own kernels do all or nothing.
  std::vector<const CudnnPlan*> plans;
  for (const int64_t batch : {range, arguments.batch % range}) {
    if (batch == 0) continue;
    a.batch = batch;
    plans.push_back(plan_for(
        "attention_backward " + name_of(a), a.dtype,
        [&](CudnnGraph& graph) { build_attention_backward(a, graph); },
        [&](const CudnnPlan& plan) { run_range(plan, 0); }));
    if (plans.back() == nullptr) return false;
  }
  for (int64_t first = 0; first < arguments.batch; first += range)
    run_range(arguments.batch - first >= range ? *plans.front() : *plans.back(), first);
  return true;
}

}  // namespace lockstep
