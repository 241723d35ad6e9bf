// Factors of layers, micro-batch by micro-batch.
#include "lockstep/train/curvature_pass.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/layer_scope.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

// a with a column of ones behind it.
Tensor with_ones(const Tensor& a) {
  const int64_t rows = a.shape()[0], width = a.shape()[1];
  const size_t size = size_of(a.dtype()), narrow = static_cast<size_t>(width) * size;
  Tensor wide = Tensor::empty({rows, width + 1}, a.dtype(), a.backend());
  const Tensor ones = Tensor::full({rows}, a.dtype(), a.backend(), 1.0);
  a.backend().copy_rows(rows, narrow, a.data(), narrow, wide.mutable_data(), narrow + size);
  a.backend().copy_rows(rows, size, ones.data(), size, static_cast<std::byte*>(wide.mutable_data()) + narrow,
                        narrow + size);
  return wide;
}

// sum_r a_r a_r', or its diagonal (n).
Tensor second_moments(const Tensor& a, bool square) {
  const int64_t rows = a.shape()[0], n = a.shape()[1];
  Backend& backend = a.backend();
  if (square) return product(a, a, true, false);
  const Tensor squares = square_of(a);
  Tensor sums = Tensor::empty({n}, a.dtype(), backend);
  backend.reduce(ReduceOp::kSum, a.dtype(), 1, rows, n, squares.data(), sums.mutable_data());
  return sums;
}

// Sums of the rows (rows, n) by their index: (table, n).
Tensor sums_by_index(const Tensor& rows, const Tensor& indices, int64_t table) {
  Tensor sums = Tensor::empty({table, rows.shape()[1]}, rows.dtype(), rows.backend());
  rows.backend().embedding_backward(rows.dtype(), indices.elements(), table, rows.shape()[1],
                                    indices.data_as<int32_t>(), rows.data(), false, sums.mutable_data());
  return sums;
}

// Adds what a micro-batch's sweep shows.
class Contributions final : public LayerSink {
 public:
  Contributions(const CurvatureSums& sums, const LayerCurvature::Due& due, const Tensor& bases,
                GradientExchange& exchange, std::vector<int64_t>& rows)
      : sums_(sums), due_(due), bases_(bases), exchange_(exchange), rows_(rows), seen_(rows.size(), false) {}

  void take(const LayerUse& use) override {
    const auto found = std::ranges::find(sums_.layers, static_cast<size_t>(use.weight),
                                         [](const LayerSums& at) { return at.layer.weight; });
    if (found == sums_.layers.end()) return;
    const auto l = static_cast<size_t>(found - sums_.layers.begin());
    if (seen_[l]) {
      fail(ErrorKind::kUsage,
           fmt::format(
               "optimizer: parameter {} is applied more than once, which it was not to a sample of zeros: "
               "name it in optimizer.adamw",
               use.weight));
    }
    seen_[l] = true;
    rows_[l] = use.rows;
    use.lookup ? add_lookup(*found, use) : add_rows(*found, use);
  }

 private:
  void add(int64_t at, const Tensor& values) { exchange_.add(at, values.elements(), values.data()); }

  Tensor basis(int64_t at, int64_t n) const { return bases_.view({n, n}, at); }
  // Rows in the side's basis, squared.
  Tensor turned_squares(const Tensor& x, bool square, int64_t at) const {
    return square_of(square ? product(x, basis(at, x.shape()[1]), false, false) : x);
  }

  void add_rows(const LayerSums& at, const LayerUse& use) {
    const Tensor plain = use.inputs();
    const Tensor a = at.layer.bias ? with_ones(plain) : plain;
    const Tensor& g = use.cotangents;
    if (due_.factors) {
      add(at.inputs_at, second_moments(a, at.square_inputs));
      add(at.outputs_at, second_moments(g, at.square_outputs));
    }
    if (!due_.scales) return;
    const Tensor inputs = turned_squares(a, at.square_inputs, at.inputs_at),
                 outputs = turned_squares(g, at.square_outputs, at.outputs_at);
    add(at.scales_at, at.layer.inputs_first ? product(inputs, outputs, true, false)
                                            : product(outputs, inputs, true, false));
  }

  void add_lookup(const LayerSums& at, const LayerUse& use) {
    const Tensor indices = use.inputs();
    const Tensor& g = use.cotangents;
    if (due_.factors) {
      const Tensor ones = Tensor::full({use.rows, 1}, g.dtype(), g.backend(), 1.0);
      add(at.inputs_at, sums_by_index(ones, indices, use.width));
      add(at.outputs_at, second_moments(g, at.square_outputs));
    }
    if (due_.scales) {
      add(at.scales_at,
          sums_by_index(turned_squares(g, at.square_outputs, at.outputs_at), indices, use.width));
    }
  }

  const CurvatureSums& sums_;
  const LayerCurvature::Due due_;
  const Tensor& bases_;
  GradientExchange& exchange_;
  std::vector<int64_t>& rows_;
  std::vector<bool> seen_;
};

// Who owns the layers, of places that begin at `begins`.
std::vector<Share> shares_of_layers(const CurvatureSums& sums, const Replica& replica,
                                    const std::vector<int64_t>& begins, int64_t extent) {
  std::vector<Share> shares;
  for (size_t l = 0; l < sums.layers.size(); ++l) {
    const int64_t offset = replica.store.parameters()[sums.layers[l].layer.weight].offset;
    const auto owner = std::ranges::find_if(replica.shards->shares(),
                                            [&](const Share& share) { return offset < share.range.end; });
    shares.push_back({{begins[l], l + 1 < begins.size() ? begins[l + 1] : extent}, owner->owner});
  }
  return shares;
}

}  // namespace

CurvaturePass::CurvaturePass(const LayerCurvature& curvature, Replica& replica, GradientPass& pass,
                             const RunSettings& settings)
    : curvature_(curvature), replica_(replica), pass_(pass) {
  const CurvatureSums& sums = curvature.sums();
  std::vector<int64_t> begins, numbers, slices;
  for (const LayerSums& at : sums.layers) {
    numbers.push_back(std::ssize(begins));
    begins.push_back(at.inputs_at);
    slices.push_back(at.inputs_at);
    slices.push_back(at.outputs_at);
    if (at.scales_at >= 0) slices.push_back(at.scales_at);
  }
  const std::vector<Share> shares = shares_of_layers(sums, replica, begins, sums.extent);
  Communicator& sharing = replica.shards->communicator();
  shards_ = std::make_unique<ParameterShards>(sharing, shares);
  numbers_ = std::make_unique<ParameterShards>(
      sharing, shares_of_layers(sums, replica, numbers, std::ssize(sums.layers)));
  if (sums.layers.empty()) return;
  exchange_ = std::make_unique<GradientExchange>(
      pass.communicator(), replica.store.backend(), replica.store.dtype(), sums.extent, slices,
      ExchangeOptions{pass.micro_batches(), settings.reduction, settings.bucket_bytes,
                      settings.shard_optimizer ? shares : std::vector<Share>(), Objective::kSums});
}

CurvaturePass::Result CurvaturePass::sweep(const LayerCurvature::Due& due, const Tensor& bases) {
  const CurvatureSums& sums = curvature_.sums();
  const Objective& objective = pass_.objective();
  Result result;
  result.rows.assign(sums.layers.size(), 0);
  const auto part = [&](const Batch& batch, ForwardContext& context) {
    const Tensor outputs = forward(*replica_.model, batch, context);
    const RandomStream draws = next_random_stream(RandomPurpose::kPredictions);
    const Tensor scores = objective.scores(outputs, batch, curvature_.draws_targets() ? &draws : nullptr);
    Contributions contributions(sums, due, bases, *exchange_, result.rows);
    const LayerScope scope(contributions);
    backward(outputs, scores, [](const Leaf&, const Tensor&) {});
    pass_.add_weight(*exchange_, batch);
  };
  result.weight = pass_.sum_up(*exchange_, part).weight;
  for (int64_t& rows : result.rows) rows *= pass_.micro_batches();
  result.sums = exchange_->result();
  return result;
}

}  // namespace lockstep
