// Table lookup and its adjoint, which are derivatives of each other.
#include "lockstep/ops/embedding.h"

#include <fmt/format.h>

#include "lockstep/autodiff/gradient_room.h"
#include "lockstep/autodiff/layer_scope.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/operands.h"

namespace lockstep {

namespace {

// table: where the result is written; what it is added to with `adds`, which leaves no history.
Tensor scatter_rows(const Tensor& rows, const Tensor& indices, Tensor table, bool adds = false);

// y[i] = table[indices[i]]. Inputs: table, indices.
class GatherRowsNode final : public Node {
 public:
  const char* name() const override { return "embedding"; }
  Saved saved() const override { return Saved::input(1); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Shape& table = inputs[0].shape();
    const auto use = [&] {
      LayerUse shown;
      shown.lookup = true;
      shown.rows = inputs[1].elements();
      shown.width = table[0];
      shown.outputs = table[1];
      shown.inputs = [this] { return inputs[1].view({inputs[1].elements()}); };
      shown.cotangents = cotangent.view({shown.rows, shown.outputs});
      return shown;
    };
    if (show_layer(inputs[0], {}, use)) return;
    const bool adds = result.last(0) && result.gathered(0).defined();
    result[0] = scatter_rows(cotangent, inputs[1], adds ? others(result) : gradient_room(inputs[0]), adds);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return embedding(tangents[0], inputs[1]);
  }

 private:
  // What the table's other uses contribute, to write over. A tied head's is as large as the table, and few
  // rows of it are looked up.
  Tensor others(InputGradients& result) const {
    Tensor gathered = result.take_gathered(0);
    const bool own = gathered.sole_owner() || in_gradient_room(*inputs[0].node(), gathered);
    return own ? gathered : gathered.clone();
  }
};

// table[j] = sum of rows[i] with indices[i] == j. Inputs: rows, indices.
class ScatterRowsNode final : public Node {
 public:
  const char* name() const override { return "embedding_backward"; }
  Saved saved() const override { return Saved::input(1); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = embedding(cotangent, inputs[1]);
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    return scatter_rows(tangents[0], inputs[1], output.empty_like());
  }
};

Tensor scatter_rows(const Tensor& rows, const Tensor& indices, Tensor table, bool adds) {
  if (table.elements() > 0) {
    rows.backend().embedding_backward(rows.dtype(), indices.elements(), table.shape()[0], table.shape()[1],
                                      indices.data_as<int32_t>(), rows.data(), adds, table.mutable_data());
  }
  return record<ScatterRowsNode>(std::move(table), {&rows, &indices});
}

}  // namespace

void require_indices(const Tensor& indices, int64_t limit, const char* where) {
  const std::optional<IndexRange>& known = indices.index_range();
  if (known && known->least >= 0 && known->largest < limit) return;
  const std::vector<int32_t> host = indices.to_vector<int32_t>();
  for (size_t i = 0; i < host.size(); ++i) {
    if (host[i] < 0 || host[i] >= limit) {
      fail(ErrorKind::kData,
           fmt::format("{} {} at position {} is outside [0, {})", where, host[i], i, limit));
    }
  }
}

Tensor embedding(const Tensor& table, const Tensor& indices) {
  require_one_device("embedding", {&table, &indices});
  if (table.rank() != 2 || indices.dtype() != DType::kI32) {
    refuse_operands("embedding", "a table (V,C) and int32 indices", {&table, &indices});
  }
  require_indices(indices, table.shape()[0], "embedding: index");
  Shape shape = indices.shape();
  shape.push_back(table.shape()[1]);
  Tensor y = Tensor::empty(shape, table.dtype(), table.backend());
  if (y.elements() > 0) {
    table.backend().embedding(table.dtype(), indices.elements(), table.shape()[1], table.data(),
                              indices.data_as<int32_t>(), y.mutable_data());
  }
  return record<GatherRowsNode>(std::move(y), {&table, &indices});
}

}  // namespace lockstep
