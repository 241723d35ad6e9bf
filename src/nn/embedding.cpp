// Embedding layer.
#include "lockstep/nn/embedding.h"

#include <fmt/format.h>

#include "lockstep/ops/embedding.h"

namespace lockstep {

EmbeddingLayer::EmbeddingLayer(int64_t rows, int64_t width, const ModuleBuilder& builder)
    : rows_(rows),
      table_(builder.parameter("weight", {rows, width}, {Initializer::Kind::kNormal, rows, width, 1.0})) {}

Tensor EmbeddingLayer::forward(const Tensor& indices, ForwardContext& context) const {
  return embedding(context.parameter(table_), indices);
}

Layer make_embedding(Section& keys, const Shape& input, const ModuleBuilder& builder) {
  const int64_t rows = keys.integer("rows", std::nullopt, kSize, "embedding: number of different indices");
  const int64_t width = keys.integer("width", std::nullopt, kSize, "embedding: features of each index");
  if (input.rank() != 1) {
    keys.reject("type", fmt::format("embedding takes indices (T), got {}", input.to_string()));
  }
  return {std::make_unique<EmbeddingLayer>(rows, width, builder), {input[0], width}};
}

}  // namespace lockstep
