// Convolutions as operation graphs.
#pragma once

#include "kernels/cuda/with_cudnn/graph.h"

namespace lockstep {

// Bytes that the addresses of a call's arrays are multiples of.
struct ConvolutionAlignments {
  int64_t x = 16, weights = 16, bias = 16, y = 16;
};

// Ids of the arrays of a call; gradients have the ids of what they are derivatives by.
enum ConvolutionArray : int64_t { kConvolutionX = 1, kConvolutionWeights, kConvolutionBias, kConvolutionY };

// y = x * weights, to which a bias of y's type is added before it is rounded.
void build_convolution(const ConvolutionArguments& arguments, const ConvolutionAlignments& alignments,
                       bool bias, CudnnGraph& graph);
void build_convolution_backward_data(const ConvolutionArguments& arguments,
                                     const ConvolutionAlignments& alignments, CudnnGraph& graph);
// dweights in the accumulation type.
void build_convolution_backward_weights(const ConvolutionArguments& arguments,
                                        const ConvolutionAlignments& alignments, CudnnGraph& graph);

}  // namespace lockstep
