// Embedding layer: a learned vector for each table index.
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

// indices (B, ...) int32 in [0, rows) -> (B, ..., width); table (rows, width), initially normal with standard
// deviation 1.
class EmbeddingLayer final : public Module {
 public:
  EmbeddingLayer(int64_t rows, int64_t width, const ModuleBuilder& builder);
  Tensor forward(const Tensor& indices, ForwardContext& context) const override;
  int64_t index_limit() const override { return rows_; }

 private:
  int64_t rows_;
  int table_;
};

// Indices (T) -> (T,width).
LayerSpec embedding_layer(int64_t rows, int64_t width);
// Keys: rows, width.
LayerSpec read_embedding(Section& keys);

}  // namespace lockstep
