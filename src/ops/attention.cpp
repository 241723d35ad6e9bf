// Attention as one fused op, with a reference out of products and a softmax.
#include "lockstep/ops/attention.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/operands.h"

namespace lockstep {

namespace {

// Where q, k and v begin in their arrays: one each, or one for all.
template <class Void>
std::array<Void*, 3> parts_of(const AttentionArguments& a, std::array<Void*, 3> arrays, bool packed) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
  if (!packed) return arrays;
  const int64_t head = a.size * static_cast<int64_t>(size_of(a.dtype));
  auto* const begin = static_cast<Byte*>(arrays[0]);
  return {begin, begin + a.heads * head, begin + (a.heads + a.key_heads()) * head};
}

// in: operands.
std::array<const void*, 3> parts_of(const AttentionArguments& a, std::span<const Tensor> in) {
  if (in.size() == 1) return parts_of<const void>(a, {in[0].data(), nullptr, nullptr}, true);
  return {in[0].data(), in[1].data(), in[2].data()};
}

// 0 where query t sees key s, else -infinity: (T,S).
Tensor causal_mask(const AttentionArguments& a, const Tensor& like) {
  const Tensor keys = Tensor::arange(a.keys, like.dtype(), like.backend());
  const Tensor last_seen = add_scalar(keys.view({a.queries, 1}, 0), static_cast<double>(a.keys - a.queries));
  return log(greater_equal(last_seen, keys));
}

// The same from where first_keys (T) or (B,T) has its query begin: (T,S) or (B,1,T,S).
Tensor begin_mask(const AttentionArguments& a, const Tensor& first_keys, const Tensor& like) {
  const Tensor keys = Tensor::arange(a.keys, like.dtype(), like.backend());
  const bool by_batch = first_keys.rank() == 2;
  const Tensor first = first_keys.converted(like.dtype())
                           .view(by_batch ? Shape{a.batch, 1, a.queries, 1} : Shape{a.queries, 1});
  return log(greater_equal(keys, first));
}

// What dropout multiplies weights (B,H,T,S) by: AttentionArguments::draws, put in the order of keys.
Tensor drop_factors(const AttentionArguments& a, const Tensor& like) {
  const int64_t rows = a.batch * a.heads * a.queries, blocks = (a.keys + 63) / 64;
  Tensor kept = Tensor::empty({rows * blocks, 16, 4}, DType::kF32, like.backend());
  like.backend().dropout_mask(DType::kF32, kept.elements(), a.draws, a.dropout, kept.mutable_data());
  const Tensor by_key = reshape(permute(kept, {0, 2, 1}), {a.batch, a.heads, a.queries, blocks * 64});
  const Tensor half = Tensor::full({1}, DType::kF32, like.backend(), 0.5);
  const Tensor seen = greater_equal(slice(by_key, 3, 0, a.keys), half);
  return scale(seen.converted(like.dtype()), 1.0 / (1.0 - a.dropout));
}

// x (B,T,K D) -> (B,T,K group D), every head `group` times in a row.
Tensor repeat_heads(const Tensor& x, int64_t heads, int64_t group) {
  if (group == 1) return x;
  const int64_t batch = x.shape()[0], positions = x.shape()[1], size = x.shape()[2] / heads;
  const Tensor ones = Tensor::full({group, 1}, x.dtype(), x.backend(), 1.0);
  return reshape(multiply(reshape(x, {batch, positions, heads, 1, size}), ones),
                 {batch, positions, heads * group * size});
}

// Inputs: q, k and v, or one tensor with all three; then first keys (may be undefined) and log sums, see
// Backend::attention.
class AttentionNode final : public FusedNode {
 public:
  explicit AttentionNode(const AttentionArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "attention"; }
  Saved fused_saved() const override { return Saved::every_input() | Saved::output(); }

  Tensor reference(std::span<const Tensor> in) const override {
    const AttentionArguments& a = arguments_;
    const std::array<int64_t, 4> bounds = {0, a.heads, a.heads + a.key_heads(), a.heads + 2 * a.key_heads()};
    const auto heads = [&](size_t part) {  // (B,H,T,D)
      const bool packed = in.size() == 3;
      const Tensor x =
          widened(packed ? slice(in[0], 2, bounds[part] * a.size, bounds[part + 1] * a.size) : in[part]);
      const Tensor all = part == 0 ? x : repeat_heads(x, a.key_heads(), a.group());
      return permute(reshape(all, {a.batch, -1, a.heads, a.size}), {0, 2, 1, 3});
    };
    Tensor scores = scale(matmul(heads(0), heads(1), false, true), a.scale);
    if (a.causal) scores = add(scores, causal_mask(a, scores));
    if (const Tensor& first = in[in.size() - 2]; first.defined())
      scores = add(scores, begin_mask(a, first, scores));
    Tensor weights = softmax(scores);
    if (a.dropout > 0.0) weights = multiply(weights, drop_factors(a, weights));
    const Tensor y = permute(matmul(weights, heads(2)), {0, 2, 1, 3});
    return cast(reshape(y, {a.batch, a.queries, a.heads * a.size}), in[0].dtype());
  }

  void fused_vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const override {
    const std::span<const Tensor> operands(inputs.data(), inputs.size() - 2);
    std::vector<Tensor> gradients;
    for (const Tensor& operand : operands) gradients.push_back(operand.empty_like());
    std::array<void*, 3> arrays = {};
    for (size_t i = 0; i < gradients.size(); ++i) arrays[i] = gradients[i].mutable_data();
    const auto [q, k, v] = parts_of(arguments_, operands);
    const auto [dq, dk, dv] = parts_of<void>(arguments_, arrays, operands.size() == 1);
    AttentionArguments arguments = arguments_;
    if (const Tensor& first = inputs[operands.size()]; first.defined()) {
      arguments.first_keys = first.data_as<int32_t>();
    }
    output.backend().attention_backward(arguments, q, k, v, output.data(), inputs.back().data(),
                                        cotangent.data(), dq, dk, dv);
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (result.wanted(i)) result[i] = std::move(gradients[i]);
    }
  }

 private:
  AttentionArguments arguments_;
};

// What all forms share; in: q, k and v, or one tensor with all three.
Tensor attend(AttentionArguments a, std::span<const Tensor> in, const Tensor& first_keys = {},
              double dropout = 0.0) {
  const Tensor& q = in[0];
  if (!(dropout >= 0.0 && dropout < 1.0))
    fail(ErrorKind::kUsage, fmt::format("attention: dropout must be in [0, 1), got {}", dropout));
  if (dropout > 0.0) {
    a.dropout = dropout;
    a.draws = next_random_stream(RandomPurpose::kDropout);
  }
  if (first_keys.defined()) {
    a.first_keys = first_keys.data_as<int32_t>();
    a.first_keys_batch = first_keys.rank() == 2 ? a.queries : 0;
  }
  Tensor y = Tensor::empty({a.batch, a.queries, a.heads * a.size}, a.dtype, q.backend());
  Tensor log_sums = Tensor::empty({a.batch, a.heads, a.queries}, accumulation_type(a.dtype), q.backend());
  const auto [queries, keys, values] = parts_of(a, in);
  q.backend().attention(a, queries, keys, values, y.mutable_data(), log_sums.mutable_data());
  std::vector<Tensor> inputs(in.begin(), in.end());
  inputs.push_back(first_keys);
  inputs.push_back(std::move(log_sums));
  return record_list<AttentionNode>(std::move(y), std::move(inputs), a);
}

AttentionArguments arguments_for(DType dtype, const Tensor& q, int64_t width, int64_t heads, bool causal) {
  AttentionArguments a;
  a.dtype = dtype;
  a.causal = causal;
  a.batch = q.shape()[0];
  a.queries = a.keys = q.shape()[1];
  a.heads = heads;
  a.size = width / heads;
  a.q_row = a.k_row = a.v_row = q.shape()[2];
  a.scale = 1.0 / std::sqrt(static_cast<double>(a.size));
  return a;
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, bool causal) {
  require_one_device("attention", {&q, &k, &v});
  const bool fits = q.rank() == 3 && k.rank() == 3 && k.shape() == v.shape() && q.elements() > 0 &&
                    k.elements() > 0 && q.shape()[0] == k.shape()[0] && q.shape()[2] == k.shape()[2] &&
                    heads >= 1 && q.shape()[2] % heads == 0 && !(causal && q.shape()[1] > k.shape()[1]);
  if (!fits) {
    fail(ErrorKind::kUsage, fmt::format("attention: q (B,T,C), k and v (B,S,C), heads that divide C{} "
                                        "expected, got {}, {}, {} and {} heads",
                                        causal ? ", T <= S" : "", q.shape().to_string(),
                                        k.shape().to_string(), v.shape().to_string(), heads));
  }
  autocast_type(OpFamily::kProduct, k.dtype(), v.dtype(), "attention");
  const DType type = autocast_type(OpFamily::kProduct, q.dtype(), k.dtype(), "attention");
  AttentionArguments a = arguments_for(type, q, q.shape()[2], heads, causal);
  a.keys = k.shape()[1];
  const std::array<Tensor, 3> in = {cast(q, type), cast(k, type), cast(v, type)};
  return attend(a, in);
}

Tensor self_attention(const Tensor& qkv, int64_t heads, bool causal) {
  if (qkv.rank() != 3 || qkv.elements() == 0 || heads < 1 || qkv.shape()[2] % (3 * heads) != 0) {
    fail(ErrorKind::kUsage,
         fmt::format("attention: q, k and v as (B,T,3C), heads that divide C expected, got {} and {} "
                     "heads",
                     qkv.shape().to_string(), heads));
  }
  const DType type = autocast_type(OpFamily::kProduct, qkv.dtype());
  const Tensor in = cast(qkv, type);
  return attend(arguments_for(type, in, in.shape()[2] / 3, heads, causal), {&in, 1});
}

namespace {

bool are_first_keys(const Tensor& first, int64_t batch, int64_t positions) {
  return !first.defined() || (first.dtype() == DType::kI32 && (first.shape() == Shape{positions} ||
                                                               first.shape() == Shape{batch, positions}));
}

}  // namespace

Tensor grouped_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, int64_t kv_heads,
                         const Tensor& first_keys, double dropout) {
  require_one_device("grouped_attention", {&q, &k, &v, &first_keys});
  const bool fits = q.rank() == 3 && k.rank() == 3 && k.shape() == v.shape() && q.elements() > 0 &&
                    q.shape()[0] == k.shape()[0] && q.shape()[1] == k.shape()[1] && kv_heads >= 1 &&
                    heads >= kv_heads && heads % kv_heads == 0 && q.shape()[2] % heads == 0 &&
                    k.shape()[2] * heads == q.shape()[2] * kv_heads &&
                    are_first_keys(first_keys, q.shape()[0], q.shape()[1]);
  if (!fits) {
    fail(ErrorKind::kUsage,
         fmt::format("grouped_attention: q (B,T,{} D), k and v (B,T,{} D), first keys (T) or (B,T) expected, "
                     "got {}, {}, {} and {}",
                     heads, kv_heads, q.shape().to_string(), k.shape().to_string(), v.shape().to_string(),
                     first_keys.defined() ? first_keys.shape().to_string() : "none"));
  }
  autocast_type(OpFamily::kProduct, k.dtype(), v.dtype(), "grouped_attention");
  const DType type = autocast_type(OpFamily::kProduct, q.dtype(), k.dtype(), "grouped_attention");
  AttentionArguments a = arguments_for(type, q, q.shape()[2], heads, true);
  a.kv_heads = kv_heads;
  a.k_row = a.v_row = k.shape()[2];
  const std::array<Tensor, 3> in = {cast(q, type), cast(k, type), cast(v, type)};
  return attend(a, in, first_keys, dropout);
}

Tensor grouped_self_attention(const Tensor& qkv, int64_t heads, int64_t kv_heads, const Tensor& first_keys,
                              double dropout) {
  require_one_device("grouped_attention", {&qkv, &first_keys});
  if (qkv.rank() != 3 || qkv.elements() == 0 || kv_heads < 1 || heads < kv_heads || heads % kv_heads != 0 ||
      qkv.shape()[2] % (heads + 2 * kv_heads) != 0 ||
      !are_first_keys(first_keys, qkv.shape()[0], qkv.shape()[1])) {
    fail(ErrorKind::kUsage,
         fmt::format("grouped_attention: q, k and v as (B,T,({} + 2 x {}) D), first keys (T) or (B,T) "
                     "expected, got {} and {}",
                     heads, kv_heads, qkv.shape().to_string(),
                     first_keys.defined() ? first_keys.shape().to_string() : "none"));
  }
  const DType type = autocast_type(OpFamily::kProduct, qkv.dtype());
  const Tensor in = cast(qkv, type);
  AttentionArguments a = arguments_for(type, in, in.shape()[2] / (heads + 2 * kv_heads) * heads, heads, true);
  a.kv_heads = kv_heads;
  return attend(a, {&in, 1}, first_keys, dropout);
}

Tensor window_first_keys(int64_t positions, int64_t window, Backend& backend) {
  Tensor first = Tensor::empty({positions}, DType::kI32, backend);
  backend.first_keys(1, positions, window, nullptr, first.mutable_data_as<int32_t>());
  return first;
}

Tensor document_first_keys(const Tensor& documents, int64_t window) {
  if (documents.rank() != 2 || documents.dtype() != DType::kI32) {
    fail(ErrorKind::kUsage, fmt::format("first_keys: documents (B,T) int32 expected, got {} {}",
                                        documents.shape().to_string(), name_of(documents.dtype())));
  }
  Tensor first = documents.empty_like();
  first.backend().first_keys(first.shape()[0], first.shape()[1], window, documents.data_as<int32_t>(),
                             first.mutable_data_as<int32_t>());
  return first;
}

}  // namespace lockstep
