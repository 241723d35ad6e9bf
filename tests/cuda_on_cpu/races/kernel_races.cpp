// The kernels of the GPU under the thread sanitizer: a call of every entry of the table that launches one, on
// arrays of a few blocks, so that every thread that writes what another reads without order between them is
// found.
//
// What they compute is compared elsewhere. One element type is enough: the types differ in no barrier, but
// fp64 and unaligned arrays take other widths.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/arrays.h"
#include "kernels/parity.h"
#include "lockstep/kernels/plan_table.h"

namespace lockstep::test {
namespace {

constexpr DType kF32 = DType::kF32;

// Runs call(backend, arrays) on the GPU with arrays that begin so many elements behind an aligned address.
void on_gpu(const std::function<void(Backend&, Arrays&)>& call, const std::vector<int64_t>& shifts = {0, 1}) {
  for (int64_t shift : shifts) {
    Backend& backend = cuda_backend(0);
    Arrays arrays(backend, shift);
    call(backend, arrays);
    backend.synchronize();
    arrays.results();
  }
}

std::vector<float> values(int64_t n) {
  return random_values<float>(n, 1, 0.5, 1.5);
}

struct Extents {
  int64_t rows, columns;
};
// A row to a warp, to small and large blocks, several rows to a block one after the other; rows that are read
// again; more rows than columns. Rows of 257 and 1025 are not aligned, wherever their array begins.
constexpr Extents kExtents[] = {{9, 10},   {3, 257},  {2, 1025},   {13, 1000},
                                {2, 4104}, {1, 9000}, {1, 17'000}, {130, 40}};

TEST(KernelRaces, NoneElementByElement) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    const int64_t n = 1500;
    float* const x = arrays.in_out(values(n));
    float* const y = arrays.output<float>(n);
    BFloat16* const narrow = arrays.output<BFloat16>(n);
    backend.fill(kF32, n, y, 2.0);
    backend.cast(kF32, DType::kBF16, n, x, narrow);
    backend.unary(UnaryOp::kExp, kF32, n, x, y);
    backend.unary(UnaryOp::kNegate, kF32, n, x, x);  // in place
    backend.unary_backward(UnaryOp::kTanh, kF32, n, x, y, y, y);
    backend.scale_shift(kF32, n, x, 2.0, 1.0, y);
    backend.accumulate(kF32, n, x, y);
    backend.dropout_mask(kF32, n, RandomStream{}, 0.5, y);
    BroadcastPlan plan;
    plan.rank = 2;
    plan.extents[0] = 15, plan.extents[1] = 100;
    plan.strides_a[0] = 100, plan.strides_a[1] = 1, plan.strides_b[1] = 1;
    backend.binary(BinaryOp::kMultiply, kF32, plan, x, x, y);
    UpdateArguments update;
    update.n = n;
    update.parameters = y;
    update.gradients = x;
    update.slots[0] = arrays.in_out(values(n));
    update.slots[1] = arrays.in_out(values(n));
    for (double& scalar : update.scalars) scalar = 0.5;
    update.copy = arrays.output<BFloat16>(n);
    backend.update(UpdateFormula::kAdamW, update);
    update.row = arrays.input(std::vector<double>(3 * UpdateArguments::kScalars, 0.5));
    update.ends = arrays.input(std::vector<int64_t>{7, 900, n});
    update.runs = 3;
    backend.update(UpdateFormula::kAdamW, update);
  });
}

TEST(KernelRaces, NoneInMovement) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    const float* const x = arrays.input(values(70 * 65));
    float* const y = arrays.output<float>(70 * 65);
    const int64_t matrix[] = {70, 65}, block[] = {10, 7, 5, 13};
    const int transposed[] = {1, 0}, swapped[] = {0, 2, 1, 3};
    backend.permute(sizeof(float), 2, matrix, transposed, x, y);
    backend.permute(sizeof(float), 4, block, swapped, x, y);
    backend.copy_rows(20, 28, x, 36, y, 44);
  });
}

TEST(KernelRaces, NoneInReductions) {
  struct Case {
    int64_t outer, extent, inner;
  };
  for (const Case& c :
       {Case{9, 33, 1}, {2, 1025, 1}, {1, 20'001, 1}, {1, 1500, 3}, {2, 100, 64}, {1, 2100, 4}}) {
    on_gpu([&](Backend& backend, Arrays& arrays) {
      const float* const x = arrays.input(values(c.outer * c.extent * c.inner));
      float* const y = arrays.output<float>(c.outer * c.inner);
      backend.reduce(ReduceOp::kSum, kF32, c.outer, c.extent, c.inner, x, y);
      backend.reduce(ReduceOp::kMax, kF32, c.outer, c.extent, c.inner, x, y);
    });
  }
  on_gpu([](Backend& backend, Arrays& arrays) {
    const int64_t n = 3 * Backend::kNormBlock + 5;
    const float* const x = arrays.input(values(n));
    backend.block_square_sums(kF32, n, x, arrays.output<double>(4));
    EXPECT_TRUE(backend.all_finite(kF32, n, x));
  });
}

class RowRaces : public ::testing::TestWithParam<Extents> {};
INSTANTIATE_TEST_SUITE_P(Rows, RowRaces, ::testing::ValuesIn(kExtents), [](const auto& info) {
  return std::to_string(info.param.rows) + "x" + std::to_string(info.param.columns);
});

TEST_P(RowRaces, NoneInSoftmaxAndCrossEntropy) {
  const Extents e = GetParam();
  on_gpu(
      [&](Backend& backend, Arrays& arrays) {
        const int64_t n = e.rows * e.columns;
        const float* const x = arrays.input(values(n));
        float* const y = arrays.output<float>(n);
        float* const dx = arrays.output<float>(n);
        float* const losses = arrays.output<float>(e.rows);
        const int32_t* const labels =
            arrays.input(random_indices(e.rows, 2, static_cast<int32_t>(e.columns)));
        backend.softmax(true, kF32, e.rows, e.columns, x, y);
        backend.softmax_backward(true, kF32, e.rows, e.columns, y, x, dx);
        backend.cross_entropy(kF32, e.rows, e.columns, x, labels, nullptr, losses, y);
        backend.cross_entropy_backward(kF32, e.rows, e.columns, y, labels, nullptr, losses, dx);
        backend.cross_entropy_gradient(kF32, e.rows, e.columns, x, labels, nullptr, losses,
                                       arrays.output<float>(e.rows), y);
      },
      {0});
}

TEST_P(RowRaces, NoneInNormalization) {
  const Extents e = GetParam();
  on_gpu(
      [&](Backend& backend, Arrays& arrays) {
        const int64_t n = e.rows * e.columns;
        const float* const x = arrays.input(values(n));
        const float* const gamma = arrays.input(values(e.columns));
        float* const y = arrays.output<float>(n);
        float* const dx = arrays.output<float>(n);
        float* const dgamma = arrays.output<float>(e.columns);
        float* const dbeta = arrays.output<float>(e.columns);
        float* const row_mean = arrays.output<float>(e.rows);
        float* const row_rstd = arrays.output<float>(e.rows);
        for (const auto kind : {NormArguments::Kind::kLayer, NormArguments::Kind::kRms}) {
          const NormArguments norm{.kind = kind, .rows = e.rows, .columns = e.columns, .gamma = gamma};
          const bool layer = kind == NormArguments::Kind::kLayer;
          float* const mean = layer ? row_mean : nullptr;
          backend.norm(norm, x, nullptr, layer ? gamma : nullptr, nullptr, y, mean, row_rstd);
          // Derivatives read rows of 9000 again already.
          if (e.columns > 16'000) continue;
          backend.norm_backward(norm, x, mean, row_rstd, y, nullptr, dx, nullptr, dgamma,
                                layer ? dbeta : nullptr);
        }
        if (e.columns > 1100) return;  // channels are fewer
        float* const mean = arrays.output<float>(e.columns);
        float* const variance = arrays.output<float>(e.columns);
        float* const rstd = arrays.output<float>(e.columns);
        backend.batch_norm(kF32, e.rows, e.columns, x, gamma, gamma, 1e-5, y, mean, variance, rstd);
        backend.batch_norm_backward(kF32, e.rows, e.columns, x, gamma, mean, rstd, y, dx, dgamma, dbeta);
      },
      {0});
}

// Of 16-bit elements a lane has more numbers: gamma lies in shared memory, warps share it.
TEST(KernelRaces, NoneInLayerNormBackwardOfHalfPrecision) {
  for (const Extents& e : {Extents{30, 512}, Extents{9, 1024}, Extents{9, 3000}}) {
    on_gpu(
        [&](Backend& backend, Arrays& arrays) {
          const BFloat16* const x = arrays.input(random_values<BFloat16>(e.rows * e.columns, 1));
          const float* const gamma = arrays.input(values(e.columns));
          const float* const of_rows = arrays.input(values(e.rows));
          BFloat16* const dx = arrays.output<BFloat16>(e.rows * e.columns);
          float* const dgamma = arrays.output<float>(e.columns);
          float* const dbeta = arrays.output<float>(e.columns);
          backend.norm_backward({.dtype = DType::kBF16,
                                 .narrow = DType::kBF16,
                                 .rows = e.rows,
                                 .columns = e.columns,
                                 .gamma = gamma},
                                x, of_rows, of_rows, x, nullptr, dx, nullptr, dgamma, dbeta);
        },
        {0});
  }
}

// So many rows that their statistics and sums take a second pass.
TEST(KernelRaces, NoneInBatchNormOfManyRows) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    const int64_t rows = 2100, columns = 4;
    const float* const x = arrays.input(values(rows * columns));
    const float* const gamma = arrays.input(values(columns));
    float* const y = arrays.output<float>(rows * columns);
    float* const of_channels[5] = {arrays.output<float>(columns), arrays.output<float>(columns),
                                   arrays.output<float>(columns), arrays.output<float>(columns),
                                   arrays.output<float>(columns)};
    backend.batch_norm(kF32, rows, columns, x, gamma, gamma, 1e-5, y, of_channels[0], of_channels[1],
                       of_channels[2]);
    backend.batch_norm_backward(kF32, rows, columns, x, gamma, of_channels[0], of_channels[2], x, y,
                                of_channels[3], of_channels[4]);
  });
}

TEST(KernelRaces, NoneInEmbedding) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    const int64_t count = 100, rows = 7, width = 20;  // rows come up several times
    const float* const table = arrays.input(values(rows * width));
    const int32_t* const indices = arrays.input(random_indices(count, 3, rows));
    float* const y = arrays.output<float>(count * width);
    backend.embedding(kF32, count, width, table, indices, y);
    float* const sums = arrays.output<float>(rows * width);
    backend.embedding_backward(kF32, count, rows, width, indices, y, false, sums);
    backend.embedding_backward(kF32, count, rows, width, indices, y, true, sums);
  });
}

TEST(KernelRaces, NoneInPooling) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    PoolArguments pool;  // windows overlap
    pool.n = 2, pool.h = pool.w = 7, pool.c = 5, pool.kh = pool.kw = 3, pool.oh = pool.ow = 3;
    pool.stride_h = pool.stride_w = 2;
    const int64_t inputs = 2 * 7 * 7 * 5, outputs = 2 * 3 * 3 * 5;
    const float* const x = arrays.input(values(inputs));
    float* const y = arrays.output<float>(outputs);
    float* const dx = arrays.output<float>(inputs);
    int32_t* const indices = arrays.output<int32_t>(outputs);
    backend.max_pool(pool, x, y, indices);
    backend.max_pool_gather(pool, indices, x, y);
    backend.max_pool_backward(pool, indices, y, dx);
    backend.average_pool(pool, x, y);
    backend.average_pool_backward(pool, y, dx);
  });
}

TEST(KernelRaces, NoneAroundProductsAndConvolutions) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    MatmulArguments product;
    product.m = 9, product.n = 17, product.k = 5;
    product.a = arrays.input(values(9 * 5));
    product.b = arrays.input(values(5 * 17));
    product.bias = arrays.input(values(17));
    product.c = arrays.output<float>(9 * 17);
    product.activation = Activation::kGelu;
    backend.matmul(product);
    product.activation = Activation::kGeluTanh;
    product.argument = arrays.output<float>(9 * 17);
    backend.matmul(product);
    product.bias = nullptr;
    product.derivative_at = std::exchange(product.argument, nullptr);
    product.column_sums = arrays.output<float>(17);
    backend.matmul(product);

    ConvolutionArguments convolution;
    convolution.n = 2, convolution.h = convolution.w = 6, convolution.c = 3, convolution.o = 4;
    convolution.kh = convolution.kw = 3, convolution.oh = convolution.ow = 6;
    convolution.pad_h = convolution.pad_w = 1;
    float* const x = arrays.in_out(values(2 * 6 * 6 * 3));
    float* const weights = arrays.in_out(values(3 * 3 * 3 * 4));
    float* const y = arrays.output<float>(2 * 6 * 6 * 4);
    backend.convolution(convolution, x, weights, arrays.input(values(4)), y);
    backend.convolution_backward_data(convolution, y, weights, x);
    backend.convolution_backward_weights(convolution, x, y, weights);
  });
}

TEST(KernelRaces, NoneInRecurrentCells) {
  for (const RecurrentCell cell : {RecurrentCell::kTanh, RecurrentCell::kLstm, RecurrentCell::kGru}) {
    on_gpu([&](Backend& backend, Arrays& arrays) {
      RecurrentArguments recurrent;
      recurrent.cell = cell;
      recurrent.steps = 3, recurrent.rows = 4, recurrent.units = 6;
      const int64_t gates = recurrent.gates(), all = recurrent.steps * recurrent.rows;
      const float* const weight = arrays.input(values(recurrent.units * gates));
      float* const activations = arrays.output<float>(all * gates);
      float* const memory = arrays.output<float>(all * recurrent.units);
      float* const states = arrays.output<float>(all * recurrent.units);
      backend.recurrent(recurrent, arrays.input(values(all * gates)), weight, arrays.input(values(gates)),
                        activations, memory, states);
      backend.recurrent_backward(recurrent, weight, activations, memory, states,
                                 arrays.input(values(all * recurrent.units)),
                                 arrays.output<float>(all * gates), arrays.output<float>(all * gates));
    });
  }
}

TEST(KernelRaces, NoneInAttention) {
  // Tiles of queries and of keys, several of each, the last ones in part.
  on_gpu(
      [](Backend& backend, Arrays& arrays) {
        AttentionArguments attention;
        attention.causal = true;
        attention.batch = 1, attention.heads = 2, attention.queries = 70, attention.keys = 130,
        attention.size = 20;
        attention.q_row = attention.k_row = attention.v_row = 40;
        const float* const q = arrays.input(values(70 * 40));
        const float* const k = arrays.input(values(130 * 40));
        const float* const v = arrays.input(values(130 * 40));
        float* const y = arrays.output<float>(70 * 40);
        float* const log_sums = arrays.output<float>(2 * 70);
        backend.attention(attention, q, k, v, y, log_sums);
        backend.attention_backward(attention, q, k, v, y, log_sums, arrays.input(values(70 * 40)),
                                   arrays.output<float>(70 * 40), arrays.output<float>(130 * 40),
                                   arrays.output<float>(130 * 40));
        // Two query heads of one of keys, in windows, with dropout.
        std::vector<int32_t> first;
        for (int32_t t = 0; t < 70; ++t) first.push_back(std::max(0, t - 20));
        attention.kv_heads = 1;
        attention.k_row = attention.v_row = 20;
        attention.first_keys = arrays.input(first);
        attention.dropout = 0.3;
        backend.attention(attention, q, k, v, y, log_sums);
        backend.attention_backward(attention, q, k, v, y, log_sums, arrays.input(values(70 * 40)),
                                   arrays.output<float>(70 * 40), arrays.output<float>(130 * 20),
                                   arrays.output<float>(130 * 20));
        // On tensor cores, by warps and by groups of warps, without dropout and with it.
        attention.dtype = DType::kBF16;
        attention.size = 24;
        attention.q_row = 48;
        attention.k_row = attention.v_row = 24;
        const auto narrow = [&](int64_t n) { return arrays.input(random_values<BFloat16>(n, 5)); };
        const auto result = [&](int64_t n) { return arrays.output<BFloat16>(n); };
        for (const auto& [candidate, dropout] : {std::pair{0, 0.0}, {0, 0.3}, {1, 0.0}, {1, 0.3}}) {
          backend.plans()->set_search({.candidate = candidate});
          attention.dropout = dropout;
          const BFloat16 *const queries = narrow(70 * 48), *const keys = narrow(130 * 24),
                                *const weighted = narrow(130 * 24);
          BFloat16* const out = result(70 * 48);
          backend.attention(attention, queries, keys, weighted, out, log_sums);
          backend.attention_backward(attention, queries, keys, weighted, out, log_sums, narrow(70 * 48),
                                     result(70 * 48), result(130 * 24), result(130 * 24));
        }
        backend.plans()->set_search({});
      },
      {0});
}

TEST(KernelRaces, NoneInWhatLanguageModelsAdd) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    const int64_t rows = 26, positions = 13, heads = 3, size = 24, n = rows * heads * size;
    float* const x = arrays.in_out(values(n));
    backend.add_narrow(DType::kBF16, n, x, arrays.input(random_values<BFloat16>(n, 2)), x);
    const float* const cosines = arrays.input(values(positions * size / 2));
    backend.rotary(kF32, rows, positions, heads, 2, size, false, x, cosines, cosines, x);
    backend.rotary(kF32, rows, positions, heads, heads, size, true, x, cosines, cosines,
                   arrays.output<float>(n));
    std::vector<int32_t> documents;
    for (int32_t i = 0; i < 2 * 1100; ++i) documents.push_back(i % 1100 / 7);
    backend.first_keys(2, 1100, 5, arrays.input(documents), arrays.output<int32_t>(2 * 1100));
    backend.swiglu(kF32, rows, heads * size / 2, x, arrays.output<float>(n / 2));
    backend.swiglu_backward(kF32, rows, heads * size / 2, x, arrays.input(values(n / 2)),
                            arrays.output<float>(n));
  });
}

TEST(KernelRaces, NoneInTheVerdictOfAStep) {
  on_gpu([](Backend& backend, Arrays& arrays) {
    const int64_t blocks = 1300, row_size = 40;
    StepJudgement judgement;
    judgement.square_sums = arrays.in_out(random_values<double>(blocks, 1, 0.5, 1.5));
    judgement.blocks = blocks;
    judgement.sums = arrays.input(random_values<double>(2, 2, 0.5, 1.5));
    judgement.max_norm = 0.01;
    judgement.loss_scale = {true, 4.0, 0.5, 2.0, 1.0, 1e6};
    judgement.table = arrays.input(random_values<double>(3 * row_size, 3));
    judgement.rows = 3;
    judgement.row_size = row_size;
    judgement.state = reinterpret_cast<StepState*>(
        arrays.in_out(random_values<double>(sizeof(StepState) / sizeof(double), 4, 1.0, 2.0)));
    judgement.row = arrays.output<double>(row_size);
    judgement.cotangent = arrays.output<float>(1);
    backend.judge(judgement);
  });
}

// Every thread writes what its neighbour reads: were the kernels not watched, nothing would be found here.
TEST(PlantedRace, OfArraysThatOverlap) {
  Backend& backend = cuda_backend(0);
  Arrays arrays(backend, 0);
  float* const x = arrays.in_out(values(301));
  backend.unary(UnaryOp::kNegate, kF32, 300, x, x + 1);
  backend.synchronize();
}

}  // namespace
}  // namespace lockstep::test
