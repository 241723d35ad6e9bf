// The training objective: which loss compares a model's output with the targets, and what counts as right in
// evaluation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/nn/module.h"
#include "lockstep/tensor/tensor.h"
#include "lockstep/train/batch.h"
#include "lockstep/train/objective_options.h"

namespace lockstep {

class Objective {
 public:
  // loss: "cross_entropy", "logistic", "mean_squared_error", or "auto": logistic when a model gives one logit
  // for two classes, cross_entropy for classes, else mean_squared_error. Error (kUsage) when it does not fit
  // the data.
  Objective(std::string loss, const DataShape& data, DType dtype, Backend& backend,
            const ObjectiveOptions& options = {});

  // The loss that is taken of what the model makes of the batch, by its name: never "auto".
  std::string loss_of(const Module& model, const Batch& batch, ForwardContext& context) const;
  bool classification() const { return data_.classes > 0; }
  // Numbers of a target of regression.
  int64_t target_width() const { return data_.targets; }

  // Of the losses of B samples: one a target.
  Shape loss_shape(int64_t samples) const;
  // One loss a target (B, positions...), times its weight; padding samples have loss 0. Labels are smoothed.
  // Error (kUsage) when the output's shape does not fit the targets.
  Tensor losses(const Tensor& output, const Batch& batch) const { return losses(output, batch, true); }
  // As an evaluation wants them: labels are not smoothed.
  Tensor plain_losses(const Tensor& output, const Batch& batch) const { return losses(output, batch, false); }
  // The same of what the model makes of the batch, without the logits of a model with a class head.
  Tensor plain_losses(const Module& model, const Batch& batch, ForwardContext& context) const;
  // Those of training of what the model makes of the batch, without the logits of a model with a class head;
  // its z-loss is the training's. `cotangent`: what their backward sweep will begin with, where that is known
  // (head_losses). Error (kUsage) for smoothed labels of one.
  Tensor losses(const Module& model, const Batch& batch, ForwardContext& context,
                const Tensor& cotangent = {}) const;
  // In evaluation: the plain losses, and what counts as right (classification alone; see count()).
  struct Counts;
  Tensor evaluated_losses(const Module& model, const Batch& batch, const MicroBatch& samples,
                          ForwardContext& context, Counts& counts) const;
  // dl/d(output) of each target's loss, times the root of the target's weight, so that the sums of their
  // squares over targets are those of the objective: of output's shape. With `draws` the targets are drawn
  // from what the model predicts (the outer products' mean is then the Fisher information: Martens 2020):
  // classes by their probabilities, real targets of a squared error over K numbers from a normal distribution
  // of variance K/2 around them. Null: those of the batch, labels not smoothed.
  Tensor scores(const Tensor& output, const Batch& batch, const RandomStream* draws) const;
  // What each target of the batch weighs (B, positions...), 0 for padding.
  std::vector<double> target_weights(const MicroBatch& batch) const;
  // What they weigh together.
  double weight(const MicroBatch& batch) const;
  // What the losses of a micro-batch add to the objective, in the device's memory: (2) fp64, the sum of the
  // losses, which are times their weights already, and that of the weights.
  Tensor sums(const Tensor& losses, const Batch& batch) const;
  static constexpr int64_t kSums = 2;
  // Outputs of a model are a row a sample, with one logit for two classes or as many as there are; those of a
  // class head a row a target, of all classes. Their shapes alone do not tell two rows of one from another.
  enum class Rows { kSamples, kTargets };
  // The class that each of the first `count` targets is predicted to be of: the first of equal logits
  // wins; a row with a logit that is not a number predicts none, -1.
  std::vector<int32_t> predicted_classes(const Tensor& output, int64_t count,
                                         Rows rows = Rows::kSamples) const;
  static constexpr int64_t kTop = 5;
  struct Counts {
    int64_t counted = 0;  // targets whose weight is not 0; of them:
    int64_t correct = 0;  // predicted right
    int64_t in_top = 0;   // whose label is among the kTop largest logits; of more than kTop classes
    // (classes, classes), label by prediction; of size 0: not wanted.
    std::vector<int64_t> confusion = {};
  };
  // Adds outputs of a classification, a row a target of the micro-batch from target `first` on; class weights
  // say nothing about what counts.
  void count(const Tensor& output, const MicroBatch& batch, Counts& counts, Rows rows = Rows::kSamples,
             int64_t first = 0) const;

  // Where the model has one for these inputs and the loss can be taken with it.
  std::optional<ClassHead> class_head(const Module& model, const Batch& batch, ForwardContext& context) const;

 private:
  Tensor losses(const ClassHead& head, const Batch& batch, const Tensor& cotangent,
                const LogitsSink& sink = {}) const;
  int64_t targets_of(const Tensor& output) const;
  bool single_logit(const Tensor& output, Rows rows = Rows::kSamples) const;
  Tensor losses(const Tensor& output, const Batch& batch, bool smoothed) const;
  // Of classes, a row a target; labels and weights (rows), weights may be undefined.
  Tensor class_losses(const Tensor& output, const Tensor& labels, const Tensor& weights,
                      double smoothing) const;
  // (B, positions...); undefined where all are 1.
  Tensor weights(const Batch& batch) const;

  std::string loss_;
  DataShape data_;
  DType dtype_;
  Backend* backend_;
  ObjectiveOptions options_;
  Tensor class_weights_;  // (classes, 1); undefined where all are 1
};

}  // namespace lockstep
