// What optimizers that look at a model layer by layer ask of a run beside the gradient: sums over the batch
// of the two matrices that a layer's curvature is a product of, out of a sweep with targets of their own.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// A weight that is applied once: z = a W + b for rows a and z.
struct CurvedLayer {
  size_t weight = 0;         // of the parameters, in the order of their offsets
  bool bias = false;         // b is the parameter behind it: rows a have a 1 at their end then
  bool inputs_first = true;  // how W lies: (inputs, outputs), or (outputs, inputs)
  bool lookup = false;       // a table, whose a are rows of the unit matrix
  int64_t inputs = 0;        // length of a, its 1 included
  int64_t outputs = 0;

  // (rows, columns) of W with b behind its rows or columns.
  Shape joint() const { return inputs_first ? Shape{inputs, outputs} : Shape{outputs, inputs}; }
};

// Where a layer's sums lie in a flat array. A side that is not `square` has the diagonal of its sum alone.
struct LayerSums {
  CurvedLayer layer;
  bool square_inputs = true, square_outputs = true;
  int64_t inputs_at = 0, outputs_at = 0;
  int64_t scales_at = -1;  // -1: none

  int64_t inputs_size() const { return square_inputs ? layer.inputs * layer.inputs : layer.inputs; }
  int64_t outputs_size() const { return square_outputs ? layer.outputs * layer.outputs : layer.outputs; }
  int64_t scales_size() const { return scales_at < 0 ? 0 : layer.inputs * layer.outputs; }
};

// Over the rows r of all micro-batches, a_r a row of inputs, g_r of derivatives of the targets' losses:
//   inputs   sum_r a_r a_r'      (inputs, inputs), or the diagonal
//   outputs  sum_r g_r g_r'      (outputs, outputs), or the diagonal
//   scales   sum_r ((Q' a_r) o (Q' a_r)) ((P' g_r) o (P' g_r))', o elementwise, in the layout of W with b
// with the bases Q and P that lie as `inputs` and `outputs` do in an array of the same extent.
struct CurvatureSums {
  std::vector<LayerSums> layers;
  int64_t extent = 0;
};

class LayerCurvature {
 public:
  virtual ~LayerCurvature() = default;

  // Before Optimizer::allocate(): what a sweep over the model has shown.
  virtual void set_layers(const std::vector<CurvedLayer>& layers,
                          const std::vector<ParameterEntry>& parameters) = 0;
  virtual const CurvatureSums& sums() const = 0;
  // Whether targets are drawn from what the model predicts, or are those of the batch.
  virtual bool draws_targets() const = 0;

  // What has to be summed before update number `update`, counted from 0.
  struct Due {
    bool factors = false, scales = false;
    bool any() const { return factors || scales; }
  };
  virtual Due due(int64_t update) const = 0;
  // Of this worker's layers, at their places in an array of sums().extent; where `scales` are due.
  virtual Tensor bases() const = 0;
  // sums: right for this worker's layers. rows: of each layer; weight: of all targets.
  virtual void take(const Due& due, const Tensor& sums, const std::vector<int64_t>& rows, double weight) = 0;

  // Directions of the update to come, of which gradients, gradient_scale, learning_rate and segments are
  // looked at. Returns of each layer, 0 where it is another worker's, eta^2 |gradient . direction|.
  // changes_bases: set to true, on all workers, where bases() may be others from now on.
  virtual std::vector<double> precondition(const UpdateContext& context, bool& changes_bases) = 0;
  // The same, added up over all layers in order: directions are shortened by what it asks for.
  virtual void limit(double sum) = 0;

  // Damping that follows how well the quadratic model predicts: looked at after every so many updates; 0:
  // never.
  virtual int64_t adapts_every() const = 0;
  virtual double damping() const = 0;
  // ratio: of actual and predicted decrease of the objective; not a number where none was predicted.
  virtual void adapt(double ratio) = 0;

  // What it keeps beside slots.
  virtual std::map<std::string, double> numbers() const = 0;
  virtual void set_numbers(const std::map<std::string, double>& numbers) = 0;
  // What of the model it preconditions, and how: one line.
  virtual std::string describe() const = 0;
};

}  // namespace lockstep
