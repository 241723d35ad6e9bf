// Convolution and pooling. Forward, backward-data and backward-weights are the three partial products of one
// trilinear form, so each one's derivatives are the other two, and derivatives of every order exist.
#include "lockstep/ops/convolution.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/gradient_room.h"
#include "lockstep/autodiff/layer_scope.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/operands.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

// Each takes operands of any type and runs in arguments.dtype. Results have that type, but those of
// convolve_weights its accumulation type; gradient_of: what they are the gradient of, for gradient_room().
Tensor convolve(const ConvolutionArguments& arguments, const Tensor& x, const Tensor& weights,
                const Tensor& bias);
Tensor convolve_data(const ConvolutionArguments& arguments, const Tensor& dy, const Tensor& weights);
Tensor convolve_weights(const ConvolutionArguments& arguments, const Tensor& x, const Tensor& dy,
                        const Tensor* gradient_of = nullptr);

// x (n,h,w,c) -> (n oh ow, kh kw c): what each output sees of it, zeros where that is padding.
Tensor patches(const ConvolutionArguments& a, const Tensor& x) {
  const size_t size = size_of(x.dtype());
  const int64_t h = a.h + 2 * a.pad_h, w = a.w + 2 * a.pad_w;
  Tensor padded = x;
  if (a.pad_h > 0 || a.pad_w > 0) {
    padded = Tensor::zeros({a.n, h, w, a.c}, x.dtype(), x.backend());
    const size_t row = static_cast<size_t>(a.w * a.c) * size, wide_row = static_cast<size_t>(w * a.c) * size;
    for (int64_t i = 0; i < a.n; ++i) {
      const auto* from = static_cast<const std::byte*>(x.data()) + static_cast<size_t>(i * a.h) * row;
      auto* to = static_cast<std::byte*>(padded.mutable_data()) +
                 static_cast<size_t>((i * h + a.pad_h) * w + a.pad_w) * static_cast<size_t>(a.c) * size;
      x.backend().copy_rows(a.h, row, from, row, to, wide_row);
    }
  }
  // One walk along strides that overlap; a factor of 1 changes no bits.
  BroadcastPlan plan;
  plan.rank = 5;
  const int64_t extents[] = {a.n, a.oh, a.ow, a.kh, a.kw * a.c};
  const int64_t strides[] = {h * w * a.c, a.stride_h * w * a.c, a.stride_w * a.c, w * a.c, 1};
  std::copy(std::begin(extents), std::end(extents), plan.extents);
  std::copy(std::begin(strides), std::end(strides), plan.strides_a);
  const Tensor one = Tensor::full({1}, x.dtype(), x.backend(), 1.0);
  Tensor y = Tensor::empty({a.n * a.oh * a.ow, a.kh * a.kw * a.c}, x.dtype(), x.backend());
  if (y.elements() > 0) {
    x.backend().binary(BinaryOp::kMultiply, x.dtype(), plan, padded.data(), one.data(), y.mutable_data());
  }
  return y;
}

class ConvolutionNode final : public Node {
 public:
  explicit ConvolutionNode(const ConvolutionArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "convolution"; }
  Saved saved() const override {
    return Saved::input(1, differentiable(0)) | Saved::input(0, differentiable(1));
  }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const bool shown = result.wanted(1) && show_layer(inputs[1], result.wanted(2) ? inputs[2] : Tensor(),
                                                      [&] { return use_of(cotangent); });
    if (result.wanted(2) && !shown) result[2] = sum(cast(cotangent, inputs[2].dtype()), {0, 1, 2});
    if (result.wanted(1) && !shown)
      result[1] = cast(convolve_weights(arguments_, inputs[0], cotangent, &inputs[1]), inputs[1].dtype());
    if (result.wanted(0))
      result[0] = cast(convolve_data(arguments_, cotangent, inputs[1]), inputs[0].dtype());
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    Tensor y;
    if (tangents[0].defined()) y = convolve(arguments_, tangents[0], inputs[1], {});
    if (tangents[1].defined())
      return sum_of(std::move(y), convolve(arguments_, inputs[0], tangents[1], tangents[2]));
    if (tangents[2].defined())
      y = sum_of(std::move(y), broadcast_to(cast(tangents[2], output.dtype()), output.shape()));
    return y;
  }

 private:
  // The patch that an output sees is a row.
  LayerUse use_of(const Tensor& cotangent) const {
    const ConvolutionArguments& a = arguments_;
    LayerUse shown;
    shown.inputs_first = false;
    shown.rows = a.n * a.oh * a.ow;
    shown.width = a.kh * a.kw * a.c;
    shown.outputs = a.o;
    shown.inputs = [this] { return patches(arguments_, cast(inputs[0], arguments_.dtype)); };
    shown.cotangents = cotangent.view({shown.rows, shown.outputs});
    return shown;
  }

  ConvolutionArguments arguments_;
};

class ConvolutionDataNode final : public Node {
 public:
  explicit ConvolutionDataNode(const ConvolutionArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "convolution_backward_data"; }
  Saved saved() const override {
    return Saved::input(1, differentiable(0)) | Saved::input(0, differentiable(1));
  }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    if (result.wanted(0)) result[0] = cast(convolve(arguments_, cotangent, inputs[1], {}), inputs[0].dtype());
    if (result.wanted(1))
      result[1] = cast(convolve_weights(arguments_, cotangent, inputs[0]), inputs[1].dtype());
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    Tensor dx;
    if (tangents[0].defined()) dx = convolve_data(arguments_, tangents[0], inputs[1]);
    if (tangents[1].defined()) dx = sum_of(std::move(dx), convolve_data(arguments_, inputs[0], tangents[1]));
    return dx;
  }

 private:
  ConvolutionArguments arguments_;
};

class ConvolutionWeightsNode final : public Node {
 public:
  explicit ConvolutionWeightsNode(const ConvolutionArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "convolution_backward_weights"; }
  Saved saved() const override {
    return Saved::input(1, differentiable(0)) | Saved::input(0, differentiable(1));
  }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    if (result.wanted(0))
      result[0] = cast(convolve_data(arguments_, inputs[1], cotangent), inputs[0].dtype());
    if (result.wanted(1)) result[1] = cast(convolve(arguments_, inputs[0], cotangent, {}), inputs[1].dtype());
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    Tensor dw;
    if (tangents[0].defined()) dw = convolve_weights(arguments_, tangents[0], inputs[1]);
    if (tangents[1].defined())
      dw = sum_of(std::move(dw), convolve_weights(arguments_, inputs[0], tangents[1]));
    return dw;
  }

 private:
  ConvolutionArguments arguments_;
};

Tensor convolve(const ConvolutionArguments& a, const Tensor& x, const Tensor& weights, const Tensor& bias) {
  Tensor y = Tensor::empty({a.n, a.oh, a.ow, a.o}, a.dtype, x.backend());
  if (y.elements() > 0) {
    x.backend().convolution(a, Operand(x, a.dtype).data(), Operand(weights, a.dtype).data(),
                            bias.defined() ? bias.data() : nullptr, y.mutable_data());
  }
  return record<ConvolutionNode>(std::move(y), {&x, &weights, &bias}, a);
}

Tensor convolve_data(const ConvolutionArguments& a, const Tensor& dy, const Tensor& weights) {
  Tensor dx = Tensor::empty({a.n, a.h, a.w, a.c}, a.dtype, dy.backend());
  if (dx.elements() > 0) {
    dy.backend().convolution_backward_data(a, Operand(dy, a.dtype).data(), Operand(weights, a.dtype).data(),
                                           dx.mutable_data());
  }
  return record<ConvolutionDataNode>(std::move(dx), {&dy, &weights}, a);
}

Tensor convolve_weights(const ConvolutionArguments& a, const Tensor& x, const Tensor& dy,
                        const Tensor* gradient_of) {
  const DType type = accumulation_type(a.dtype);
  Tensor dw = gradient_of != nullptr && gradient_of->dtype() == type
                  ? gradient_room(*gradient_of)
                  : Tensor::empty({a.o, a.kh, a.kw, a.c}, type, x.backend());
  if (dw.elements() > 0) {
    x.backend().convolution_backward_weights(a, Operand(x, a.dtype).data(), Operand(dy, a.dtype).data(),
                                             dw.mutable_data());
  }
  return record<ConvolutionWeightsNode>(std::move(dw), {&x, &dy}, a);
}

// The window of a pooling op over x; checks that it fits.
PoolArguments pool_arguments(const char* where, const Tensor& x, int64_t kh, int64_t kw,
                             const Window& window) {
  if (x.rank() != 4)
    fail(ErrorKind::kUsage, fmt::format("{}: needs (N,H,W,C), got {}", where, x.shape().to_string()));
  PoolArguments a;
  a.dtype = x.dtype();
  a.n = x.shape()[0];
  a.h = x.shape()[1];
  a.w = x.shape()[2];
  a.c = x.shape()[3];
  a.kh = kh;
  a.kw = kw;
  a.stride_h = window.stride_h;
  a.stride_w = window.stride_w;
  a.pad_h = window.pad_h;
  a.pad_w = window.pad_w;
  // A window made of padding alone would have no maximum.
  if (kh < 1 || kw < 1 || a.stride_h < 1 || a.stride_w < 1 || a.pad_h < 0 || a.pad_w < 0 || a.pad_h >= kh ||
      a.pad_w >= kw || a.h + 2 * a.pad_h < kh || a.w + 2 * a.pad_w < kw) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: window ({},{}) stride ({},{}) padding ({},{}) does not fit {}", where, kh, kw,
                     a.stride_h, a.stride_w, a.pad_h, a.pad_w, x.shape().to_string()));
  }
  a.oh = (a.h + 2 * a.pad_h - kh) / a.stride_h + 1;
  a.ow = (a.w + 2 * a.pad_w - kw) / a.stride_w + 1;
  return a;
}

Shape input_shape(const PoolArguments& a) {
  return {a.n, a.h, a.w, a.c};
}
Shape output_shape(const PoolArguments& a) {
  return {a.n, a.oh, a.ow, a.c};
}

Tensor scatter_maxima(const PoolArguments& arguments, const Tensor& dy, const Tensor& indices);

// y = x at the indices of the maxima. Inputs: x, indices.
class GatherMaximaNode final : public Node {
 public:
  explicit GatherMaximaNode(const PoolArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "max_pool"; }
  Saved saved() const override { return Saved::input(1); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = scatter_maxima(arguments_, cotangent, inputs[1]);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return gather(arguments_, tangents[0], inputs[1]);
  }
  static Tensor gather(const PoolArguments& arguments, const Tensor& x, const Tensor& indices) {
    Tensor y = Tensor::empty(output_shape(arguments), x.dtype(), x.backend());
    if (y.elements() > 0) {
      x.backend().max_pool_gather(arguments, indices.data_as<int32_t>(), x.data(), y.mutable_data());
    }
    return record<GatherMaximaNode>(std::move(y), {&x, &indices}, arguments);
  }

 private:
  PoolArguments arguments_;
};

// Its adjoint. Inputs: dy, indices.
class ScatterMaximaNode final : public Node {
 public:
  explicit ScatterMaximaNode(const PoolArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "max_pool_backward"; }
  Saved saved() const override { return Saved::input(1); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = GatherMaximaNode::gather(arguments_, cotangent, inputs[1]);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return scatter_maxima(arguments_, tangents[0], inputs[1]);
  }

 private:
  PoolArguments arguments_;
};

Tensor scatter_maxima(const PoolArguments& arguments, const Tensor& dy, const Tensor& indices) {
  Tensor dx = Tensor::empty(input_shape(arguments), dy.dtype(), dy.backend());
  if (dx.elements() > 0) {
    dy.backend().max_pool_backward(arguments, indices.data_as<int32_t>(), dy.data(), dx.mutable_data());
  }
  return record<ScatterMaximaNode>(std::move(dx), {&dy, &indices}, arguments);
}

Tensor spread_averages(const PoolArguments& arguments, const Tensor& dy);

class AveragePoolNode final : public Node {
 public:
  explicit AveragePoolNode(const PoolArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "average_pool"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = spread_averages(arguments_, cotangent);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return apply(arguments_, tangents[0]);
  }
  static Tensor apply(const PoolArguments& arguments, const Tensor& x) {
    Tensor y = Tensor::empty(output_shape(arguments), x.dtype(), x.backend());
    if (y.elements() > 0) x.backend().average_pool(arguments, x.data(), y.mutable_data());
    return record<AveragePoolNode>(std::move(y), {&x}, arguments);
  }

 private:
  PoolArguments arguments_;
};

class SpreadAveragesNode final : public Node {
 public:
  explicit SpreadAveragesNode(const PoolArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "average_pool_backward"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = AveragePoolNode::apply(arguments_, cotangent);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return spread_averages(arguments_, tangents[0]);
  }

 private:
  PoolArguments arguments_;
};

Tensor spread_averages(const PoolArguments& arguments, const Tensor& dy) {
  Tensor dx = Tensor::empty(input_shape(arguments), dy.dtype(), dy.backend());
  if (dx.elements() > 0) dy.backend().average_pool_backward(arguments, dy.data(), dx.mutable_data());
  return record<SpreadAveragesNode>(std::move(dx), {&dy}, arguments);
}

}  // namespace

Tensor convolution(const Tensor& x, const Tensor& weights, const Tensor& bias, const Window& window) {
  require_one_device("convolution", {&x, &weights, &bias});
  if (x.rank() != 4 || weights.rank() != 4 || x.shape()[3] != weights.shape()[3]) {
    fail(ErrorKind::kUsage, fmt::format("convolution: needs (N,H,W,C) and (O,KH,KW,C), got {} and {}",
                                        x.shape().to_string(), weights.shape().to_string()));
  }
  const DType compute = autocast_type(OpFamily::kProduct, x.dtype(), weights.dtype(), "convolution");
  if (bias.defined() && !(bias.shape() == Shape{weights.shape()[0]})) {
    refuse_operands("convolution", "weights (O,KH,KW,C) and a bias (O)", {&weights, &bias});
  }
  if (bias.defined() && bias.dtype() != accumulation_type(compute)) {
    if (accumulation_type(bias.dtype()) != accumulation_type(compute)) {
      fail(ErrorKind::kUsage,
           fmt::format("convolution: bias {} in a product of {}", name_of(bias.dtype()), name_of(compute)));
    }
    return convolution(x, weights, cast(bias, accumulation_type(compute)), window);
  }
  if (x.dtype() != compute && x.node() == nullptr) {
    // Nobody asks for the gradient of x: convert it once, for the backward sweep as well.
    return convolution(x.converted(compute), weights, bias, window);
  }
  ConvolutionArguments a;
  a.dtype = compute;
  a.n = x.shape()[0];
  a.h = x.shape()[1];
  a.w = x.shape()[2];
  a.c = x.shape()[3];
  a.o = weights.shape()[0];
  a.kh = weights.shape()[1];
  a.kw = weights.shape()[2];
  a.stride_h = window.stride_h;
  a.stride_w = window.stride_w;
  a.pad_h = window.pad_h;
  a.pad_w = window.pad_w;
  if (a.stride_h < 1 || a.stride_w < 1 || a.pad_h < 0 || a.pad_w < 0 || a.kh < 1 || a.kw < 1 ||
      a.h + 2 * a.pad_h < a.kh || a.w + 2 * a.pad_w < a.kw) {
    fail(ErrorKind::kUsage,
         fmt::format("convolution: window ({},{}) stride ({},{}) padding ({},{}) does not fit {}", a.kh, a.kw,
                     a.stride_h, a.stride_w, a.pad_h, a.pad_w, x.shape().to_string()));
  }
  a.oh = (a.h + 2 * a.pad_h - a.kh) / a.stride_h + 1;
  a.ow = (a.w + 2 * a.pad_w - a.kw) / a.stride_w + 1;
  return convolve(a, x, weights, bias);
}

Tensor max_pool(const Tensor& x, int64_t kh, int64_t kw, const Window& window) {
  const PoolArguments a = pool_arguments("max_pool", x, kh, kw, window);
  Tensor y = Tensor::empty(output_shape(a), x.dtype(), x.backend());
  Tensor indices = Tensor::empty(output_shape(a), DType::kI32, x.backend());
  if (y.elements() > 0)
    x.backend().max_pool(a, x.data(), y.mutable_data(), indices.mutable_data_as<int32_t>());
  return record<GatherMaximaNode>(std::move(y), {&x, &indices}, a);
}

Tensor average_pool(const Tensor& x, int64_t kh, int64_t kw, const Window& window) {
  return AveragePoolNode::apply(pool_arguments("average_pool", x, kh, kw, window), x);
}

}  // namespace lockstep
