// Convolutions through cuDNN: (N, H, W, C) activations and (O, KH, KW, C) weights are its (N, C, H, W) with
// channels last.
#include "lockstep/kernels/cuda/with_cudnn/convolution.h"

#include "lockstep/kernels/cuda/with_cudnn/operations.h"

namespace lockstep {

namespace {

// The strides of (n, c, h, w) where c runs fastest.
CudnnExtents channels_last(const CudnnExtents& extents) {
  const int64_t c = extents[1], h = extents[2], w = extents[3];
  return {h * w * c, 1, w * c, c};
}

CudnnExtents inputs_of(const ConvolutionArguments& a) {
  return {a.n, a.c, a.h, a.w};
}
CudnnExtents weights_of(const ConvolutionArguments& a) {
  return {a.o, a.c, a.kh, a.kw};
}
CudnnExtents outputs_of(const ConvolutionArguments& a) {
  return {a.n, a.o, a.oh, a.ow};
}

CudnnGraph::Array array(CudnnGraph& graph, int64_t id, DType dtype, const CudnnExtents& extents) {
  return graph.array(id, cudnn_type(dtype), extents, channels_last(extents));
}

// Types that cuDNN serves, and nothing empty.
bool is_served(const ConvolutionArguments& a) {
  return a.dtype != DType::kF64 && a.n > 0 && a.o > 0 && a.c > 0 && a.oh > 0 && a.ow > 0 && a.kh > 0 &&
         a.kw > 0;
}

// "bf16 16x28x28x64 o128 k3x3 s1x1 p1x1"
std::string name_of(const ConvolutionArguments& a) {
  const auto pair = [](int64_t h, int64_t w) { return std::to_string(h) + "x" + std::to_string(w); };
  std::string text(lockstep::name_of(a.dtype));
  text += " " + std::to_string(a.n) + "x" + pair(a.h, a.w) + "x" + std::to_string(a.c);
  text += " o" + std::to_string(a.o) + " k" + pair(a.kh, a.kw) + " s" + pair(a.stride_h, a.stride_w) + " p" +
          pair(a.pad_h, a.pad_w);
  return text;
}

}  // namespace

void build_convolution(const ConvolutionArguments& a, bool bias, CudnnGraph& graph) {
  const CudnnExtents outputs = outputs_of(a);
  CudnnGraph::Array x = array(graph, kConvolutionX, a.dtype, inputs_of(a));
  CudnnGraph::Array w = array(graph, kConvolutionWeights, a.dtype, weights_of(a));
  CudnnGraph::Array y = array(graph, kConvolutionY, a.dtype, outputs);
  if (!bias) {
    graph.convolution(a, x, w, y);
    return;
  }
  CudnnGraph::Array b = array(graph, kConvolutionBias, a.dtype, {1, a.o, 1, 1});
  CudnnGraph::Array sums = graph.between(CUDNN_DATA_FLOAT, outputs, channels_last(outputs));
  graph.convolution(a, x, w, sums);
  graph.pointwise(CUDNN_POINTWISE_ADD, sums, y, {.b = &b});
}

void build_convolution_backward_data(const ConvolutionArguments& a, CudnnGraph& graph) {
  graph.convolution_backward_data(a, array(graph, kConvolutionY, a.dtype, outputs_of(a)),
                                  array(graph, kConvolutionWeights, a.dtype, weights_of(a)),
                                  array(graph, kConvolutionX, a.dtype, inputs_of(a)));
}

void build_convolution_backward_weights(const ConvolutionArguments& a, CudnnGraph& graph) {
  const CudnnExtents weights = weights_of(a);
  CudnnGraph::Array x = array(graph, kConvolutionX, a.dtype, inputs_of(a));
  CudnnGraph::Array dy = array(graph, kConvolutionY, a.dtype, outputs_of(a));
  CudnnGraph::Array dw = array(graph, kConvolutionWeights, accumulation_type(a.dtype), weights);
  if (accumulation_type(a.dtype) == a.dtype) {
    graph.convolution_backward_weights(a, x, dy, dw);
    return;
  }
  // Engines whose result is wider than their inputs are those that fuse what follows.
  CudnnGraph::Array sums = graph.between(CUDNN_DATA_FLOAT, weights, channels_last(weights));
  graph.convolution_backward_weights(a, x, dy, sums);
  graph.pointwise(CUDNN_POINTWISE_IDENTITY, sums, dw, {});
}

bool CudnnOperations::convolution(const ConvolutionArguments& a, const void* x, const void* weights,
                                  const void* bias, void* y) {
  const bool biased = bias != nullptr;
  if (!is_served(a) || !cudnn_aligned({x, weights, bias, y})) return false;
  return serve(
      "convolution " + name_of(a) + (biased ? " bias" : ""), a.dtype,
      [&](CudnnGraph& graph) { build_convolution(a, biased, graph); },
      [&](const CudnnPlan& plan) {
        run(plan,
            {{kConvolutionX, x},
             {kConvolutionWeights, weights},
             {kConvolutionBias, bias},
             {kConvolutionY, y}},
            queue_.scratch(plan.workspace_bytes));
      });
}

bool CudnnOperations::convolution_backward_data(const ConvolutionArguments& a, const void* dy,
                                                const void* weights, void* dx) {
  if (!is_served(a) || !cudnn_aligned({dy, weights, dx})) return false;
  return serve(
      "convolution_backward_data " + name_of(a), a.dtype,
      [&](CudnnGraph& graph) { build_convolution_backward_data(a, graph); },
      [&](const CudnnPlan& plan) {
        run(plan, {{kConvolutionY, dy}, {kConvolutionWeights, weights}, {kConvolutionX, dx}},
            queue_.scratch(plan.workspace_bytes));
      });
}

bool CudnnOperations::convolution_backward_weights(const ConvolutionArguments& a, const void* x,
                                                   const void* dy, void* dweights) {
  if (!is_served(a) || !cudnn_aligned({x, dy, dweights})) return false;
  // Sums that leave in a wider type than the inputs' come from engines made for whole vectors of channels:
  // for others cuDNN 9.19 proposes some that write wrong sums on an H200.
  if (accumulation_type(a.dtype) != a.dtype && (a.c % 8 != 0 || a.o % 8 != 0)) return false;
  return serve(
      "convolution_backward_weights " + name_of(a), a.dtype,
      [&](CudnnGraph& graph) { build_convolution_backward_weights(a, graph); },
      [&](const CudnnPlan& plan) {
        run(plan, {{kConvolutionX, x}, {kConvolutionY, dy}, {kConvolutionWeights, dweights}},
            queue_.scratch(plan.workspace_bytes));
      });
}

}  // namespace lockstep
