// Convolutions as operation graphs.
#pragma once

#include "lockstep/kernels/cuda/with_cudnn/graph.h"

namespace lockstep {

// Ids of the arrays of a call; gradients have the ids of what they are derivatives by.
enum ConvolutionArray : int64_t { kConvolutionX = 1, kConvolutionWeights, kConvolutionBias, kConvolutionY };

// y = x * weights, to which a bias of y's type is added before it is rounded. Arrays begin at multiples of
// kCudnnAlignment.
void build_convolution(const ConvolutionArguments& arguments, bool bias, CudnnGraph& graph);
void build_convolution_backward_data(const ConvolutionArguments& arguments, CudnnGraph& graph);
// dweights in the accumulation type.
void build_convolution_backward_weights(const ConvolutionArguments& arguments, CudnnGraph& graph);

}  // namespace lockstep
