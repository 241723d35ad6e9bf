// A gpt over rows: products and norms by the ops that train it, attention over what is kept.
#include "lockstep/generate/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/exchange/turned.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/kernels/math/elementary.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/gated.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/normalization.h"
#include "lockstep/ops/rotary.h"

namespace lockstep {

namespace {

constexpr int64_t kLanes = 16;

// In lanes, which every compiler makes vectors of; the order depends on n alone.
float dot(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (int64_t lane = 0; i < n; ++i, ++lane) lanes[lane] += a[i] * b[i];
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

bool is_product(const ParameterEntry& entry) {
  return entry.shape.rank() == 2 && entry.name.starts_with("blocks.");
}

}  // namespace

Decoder::Decoder(const GptOptions& resolved, int64_t vocabulary, DType compute, int64_t sequences,
                 const std::function<std::vector<float>(const ParameterEntry&)>& values)
    : options_(resolved),
      vocabulary_(vocabulary),
      compute_(compute),
      caches_(static_cast<size_t>(resolved.layers * sequences)),
      lengths_(static_cast<size_t>(sequences)) {
  const std::string head = resolved.tied_head ? "tokens.weight" : "head.weight";
  for (const ParameterEntry& entry : gpt_parameters(resolved, vocabulary)) {
    const std::vector<float> given = values(entry);
    if (entry.name == head) {
      Tensor turned = Tensor::empty({resolved.width, vocabulary}, DType::kF32, cpu_backend());
      turn(given.data(), vocabulary, resolved.width, turned.mutable_data_as<float>(), vocabulary);
      head_ = turned.converted(compute);
      continue;
    }
    const Tensor stored = Tensor::from(entry.shape, given, cpu_backend());
    parameters_[entry.name] =
        is_product(entry) || entry.name == "tokens.weight" ? stored.converted(compute) : stored;
  }
}

Tensor Decoder::optional(const std::string& name) const {
  const auto found = parameters_.find(name);
  return found == parameters_.end() ? Tensor() : found->second;
}

Tensor Decoder::product(const Tensor& x, const std::string& scope) const {
  const Tensor bias = optional(scope + ".bias");
  const Tensor y = linear(x.converted(compute_), parameter(scope + ".weight"),
                          bias.defined() ? bias.converted(compute_) : bias);
  return y.converted(DType::kF32);
}

Tensor Decoder::norm(const Tensor& x, const std::string& scope) const {
  const Tensor& gamma = parameter(scope + ".gamma");
  if (options_.norm == GptNorm::kRms) return rms_norm(x, gamma, options_.norm_epsilon);
  const Tensor beta = optional(scope + ".beta");
  return layer_norm(x, gamma, beta.defined() ? beta : gamma.full_like(0.0), options_.norm_epsilon);
}

// Queries or keys (N, heads D) as their products are taken: normed and rotated.
Tensor Decoder::placed(const Tensor& x, int64_t heads, const std::string& norm_scope, const Tensor& cosines,
                       const Tensor& sines) const {
  Tensor y = reshape(x, {1, x.shape()[0], heads, options_.head_size});
  if (options_.qk_norm) y = rms_norm(y, parameter(norm_scope + ".gamma"), options_.norm_epsilon);
  if (cosines.defined()) y = rotary(y, cosines, sines);
  return reshape(y, x.shape());
}

Tensor Decoder::attention(const Tensor& x, int64_t layer, std::span<const Row> rows,
                          std::span<const int64_t> positions, const Tensor& cosines, const Tensor& sines) {
  const GptOptions& o = options_;
  const std::string scope = fmt::format("blocks.{}.attention", layer);
  const int64_t size = o.head_size, queries = o.heads * size, keys = o.kv_heads * size;
  const Tensor qkv = product(x, scope + ".qkv");
  const Tensor q = placed(slice(qkv, 1, 0, queries), o.heads, scope + ".query_norm", cosines, sines);
  const Tensor k =
      placed(slice(qkv, 1, queries, queries + keys), o.kv_heads, scope + ".key_norm", cosines, sines);
  const Tensor v = slice(qkv, 1, queries + keys, queries + 2 * keys);
  const float *q_data = q.data_as<float>(), *k_data = k.data_as<float>(), *v_data = v.data_as<float>();
  const auto cache_of = [&](size_t row) -> Cache& {
    return caches_[static_cast<size_t>(layer) * lengths_.size() + static_cast<size_t>(rows[row].sequence)];
  };
  for (size_t row = 0; row < rows.size(); ++row) {
    Cache& cache = cache_of(row);
    const int64_t begin = static_cast<int64_t>(row) * keys;
    cache.keys.insert(cache.keys.end(), k_data + begin, k_data + begin + keys);
    cache.values.insert(cache.values.end(), v_data + begin, v_data + begin + keys);
  }
  Tensor mixed = q.empty_like();
  float* const out = mixed.mutable_data_as<float>();
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  parallel_ranges(std::ssize(rows) * o.heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> weights;
    for (int64_t i = begin; i < end; ++i) {
      const auto row = static_cast<size_t>(i / o.heads);
      const int64_t head = i % o.heads, key_head = head / (o.heads / o.kv_heads);
      const Cache& cache = cache_of(row);
      const int64_t last = positions[row],
                    first = o.window > 0 ? std::max<int64_t>(0, last - o.window + 1) : 0;
      const float* query = q_data + i * size;
      weights.resize(static_cast<size_t>(last - first + 1));
      float largest = -INFINITY;
      for (int64_t t = first; t <= last; ++t) {
        const float score = scale * dot(query, cache.keys.data() + t * keys + key_head * size, size);
        weights[static_cast<size_t>(t - first)] = score;
        largest = std::max(largest, score);
      }
      float sum = 0.0f;
      for (float& weight : weights) {
        weight = math::exp(weight - largest);
        sum += weight;
      }
      float* to = out + i * size;
      std::fill_n(to, size, 0.0f);
      for (int64_t t = first; t <= last; ++t) {
        const float weight = weights[static_cast<size_t>(t - first)] / sum;
        const float* value = cache.values.data() + t * keys + key_head * size;
        for (int64_t j = 0; j < size; ++j) to[j] += weight * value[j];
      }
    }
  });
  return product(mixed, scope + ".output");
}

Tensor Decoder::hidden(std::span<const Row> rows) {
  const GptOptions& o = options_;
  Backend& backend = cpu_backend();
  const int64_t count = std::ssize(rows);
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions;
  std::vector<int64_t> lengths = lengths_;
  for (const Row& row : rows) {
    if (row.token < 0 || row.token >= vocabulary_)
      fail(ErrorKind::kData, fmt::format("token {}: the model has {}", row.token, vocabulary_));
    tokens.push_back(row.token);
    positions.push_back(lengths[static_cast<size_t>(row.sequence)]++);
    if (positions.back() >= o.context)
      fail(ErrorKind::kUsage,
           fmt::format("more than the {} tokens that the model has positions for", o.context));
  }
  lengths_ = std::move(lengths);
  Tensor x = embedded(tokens);
  Tensor cosines, sines;
  if (o.positions == GptPositions::kLearned) {
    const std::vector<int32_t> places(positions.begin(), positions.end());
    x = add(x, embedding(parameter("positions.weight"), Tensor::from({count}, places, backend)));
  } else {
    std::vector<double> cosine, sine;
    for (const int64_t position : positions) append_rotary(o.rotary, o.head_size, position, cosine, sine);
    cosines = Tensor::from({count, o.head_size / 2}, cosine, backend).converted(DType::kF32);
    sines = Tensor::from({count, o.head_size / 2}, sine, backend).converted(DType::kF32);
  }
  for (int64_t layer = 0; layer < o.layers; ++layer) {
    const std::string scope = fmt::format("blocks.{}", layer);
    x = add(x, attention(norm(x, scope + ".attention_norm"), layer, rows, positions, cosines, sines));
    Tensor h = product(norm(x, scope + ".feedforward_norm"), scope + ".expand");
    switch (o.activation) {
      case GptActivation::kSwiGlu:
        h = swiglu(h);
        break;
      case GptActivation::kReluSquared:
        h = relu_squared(h);
        break;
      case GptActivation::kGelu:
        h = gelu(h);
        break;
      case GptActivation::kGeluTanh:
        h = gelu_tanh(h);
        break;
    }
    x = add(x, product(h, scope + ".contract"));
  }
  return norm(x, "norm");
}

Tensor Decoder::embedded(std::span<const int32_t> tokens) const {
  const int64_t count = std::ssize(tokens), width = options_.width;
  if (!options_.tied_head) {
    const std::vector<int32_t> rows(tokens.begin(), tokens.end());
    return embedding(parameter("tokens.weight"), Tensor::from({count}, rows, cpu_backend()))
        .converted(DType::kF32);
  }
  Tensor x = Tensor::empty({count, width}, DType::kF32, cpu_backend());
  float* to = x.mutable_data_as<float>();
  const auto gather = [&](const auto* table) {
    for (const int32_t token : tokens) {
      for (int64_t j = 0; j < width; ++j) *to++ = static_cast<float>(table[j * vocabulary_ + token]);
    }
  };
  compute_ == DType::kBF16 ? gather(head_.data_as<BFloat16>()) : gather(head_.data_as<float>());
  return x;
}

Tensor Decoder::head(const Tensor& x) const {
  const Tensor logits = linear(x.converted(compute_), head_, {});
  const double cap = options_.soft_cap;
  return (cap > 0.0 ? scale(tanh(scale(logits, 1.0 / cap)), cap) : logits).converted(DType::kF32);
}

Tensor Decoder::logits(std::span<const Row> rows) {
  return head(hidden(rows));
}

Tensor Decoder::last_logits(std::span<const Row> rows) {
  const Tensor x = hidden(rows);
  return head(slice(x, 0, x.shape()[0] - 1, x.shape()[0]));
}

}  // namespace lockstep
