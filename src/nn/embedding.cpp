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

LayerSpec embedding_layer(int64_t rows, int64_t width) {
  return {"embedding",
          [rows, width](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_option("embedding", "rows", static_cast<double>(rows), kSize);
            require_option("embedding", "width", static_cast<double>(width), kSize);
            if (input.rank() != 1) {
              throw RefusedOption("embedding", "type",
                                  fmt::format("embedding takes indices (T), got {}", input.to_string()));
            }
            return {std::make_unique<EmbeddingLayer>(rows, width, builder), {input[0], width}};
          },
          true};
}

LayerSpec read_embedding(Section& keys) {
  const int64_t rows = keys.integer("rows", std::nullopt, kSize, "embedding: number of different indices");
  return embedding_layer(rows,
                         keys.integer("width", std::nullopt, kSize, "embedding: features of each index"));
}

}  // namespace lockstep
