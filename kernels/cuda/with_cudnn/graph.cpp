// Operation graphs, built out of descriptors.
#include "lockstep/kernels/cuda/with_cudnn/graph.h"

#include <utility>

#include "lockstep/core/error.h"

namespace lockstep {

cudnnDataType_t cudnn_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDNN_DATA_FLOAT;
    case DType::kBF16:
      return CUDNN_DATA_BFLOAT16;
    case DType::kF16:
      return CUDNN_DATA_HALF;
    default:
      fail(ErrorKind::kInternal, "cuda: cuDNN: not for " + std::string(name_of(dtype)));
  }
}

CudnnGraph::Array CudnnGraph::add(CudnnDescriptor&& descriptor) {
  descriptor.finalize();
  return parts_.emplace_back(std::move(descriptor));
}

void CudnnGraph::operation(CudnnDescriptor&& descriptor) {
  operations_.push_back(&add(std::move(descriptor)));
}

CudnnDescriptor CudnnGraph::tensor(int64_t id, cudnnDataType_t type, const CudnnExtents& extents,
                                   const CudnnExtents& strides, int64_t alignment) {
  CudnnDescriptor t(library_, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, extents);
  t.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
  t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, alignment);
  return t;
}

CudnnGraph::Array CudnnGraph::array(int64_t id, cudnnDataType_t type, const CudnnExtents& extents,
                                    const CudnnExtents& strides) {
  ids_.push_back(id);
  return add(tensor(id, type, extents, strides, kCudnnAlignment));
}

CudnnGraph::Array CudnnGraph::between(cudnnDataType_t type, const CudnnExtents& extents,
                                      const CudnnExtents& strides) {
  CudnnDescriptor t = tensor(unnamed_++, type, extents, strides, kCudnnAlignment);
  t.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  return add(std::move(t));
}

CudnnGraph::Array CudnnGraph::scalar(int64_t id, size_t rank) {
  ids_.push_back(id);
  const CudnnExtents ones(rank, 1);
  CudnnDescriptor t = tensor(id, CUDNN_DATA_FLOAT, ones, ones, sizeof(float));
  t.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  return add(std::move(t));
}

CudnnDescriptor CudnnGraph::convolution_description(const ConvolutionArguments& a) {
  CudnnDescriptor c(library_, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const CudnnExtents padding = {a.pad_h, a.pad_w};
  c.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  c.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_CROSS_CORRELATION);
  c.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, int64_t{2});
  c.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, padding);
  c.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, padding);
  c.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CudnnExtents{a.stride_h, a.stride_w});
  c.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CudnnExtents{1, 1});
  return c;
}

void CudnnGraph::convolution(const ConvolutionArguments& arguments, Array x, Array w, Array y) {
  CudnnDescriptor o(library_, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, add(convolution_description(arguments)));
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0f);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, 0.0f);
  operation(std::move(o));
}

void CudnnGraph::convolution_backward_data(const ConvolutionArguments& arguments, Array dy, Array w,
                                           Array dx) {
  CudnnDescriptor o(library_, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, add(convolution_description(arguments)));
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, dy);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, w);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, dx);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, 1.0f);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, 0.0f);
  operation(std::move(o));
}

void CudnnGraph::convolution_backward_weights(const ConvolutionArguments& arguments, Array x, Array dy,
                                              Array dw) {
  CudnnDescriptor o(library_, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, add(convolution_description(arguments)));
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, x);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, dy);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, dw);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, 1.0f);
  o.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, 0.0f);
  operation(std::move(o));
}

void CudnnGraph::pointwise(cudnnPointwiseMode_t mode, Array x, Array y, const Pointwise& options) {
  CudnnDescriptor p(library_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  p.set(CUDNN_ATTR_POINTWISE_MODE, mode);
  p.set(CUDNN_ATTR_POINTWISE_MATH_PREC, options.precision);
  if (options.axis >= 0) p.set(CUDNN_ATTR_POINTWISE_AXIS, options.axis);
  CudnnDescriptor o(library_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  o.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, add(std::move(p)));
  o.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (options.b != nullptr) o.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *options.b);
  if (options.t != nullptr) o.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, *options.t);
  o.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  operation(std::move(o));
}

void CudnnGraph::matmul(Array a, Array b, Array c) {
  CudnnDescriptor m(library_, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  m.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  CudnnDescriptor o(library_, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  o.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, add(std::move(m)));
  o.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
  o.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
  o.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
  operation(std::move(o));
}

void CudnnGraph::reduce(cudnnReduceTensorOp_t reduction, Array x, Array y) {
  CudnnDescriptor r(library_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  r.set(CUDNN_ATTR_REDUCTION_OPERATOR, reduction);
  r.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  CudnnDescriptor o(library_, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  o.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, add(std::move(r)));
  o.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  o.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  operation(std::move(o));
}

void CudnnGraph::reshape(Array x, Array y) {
  CudnnDescriptor o(library_, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  o.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
  o.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
  operation(std::move(o));
}

const CudnnDescriptor& CudnnGraph::finalize(cudnnHandle_t handle) {
  if (handle != nullptr) graph_.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle);
  graph_.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations_);
  graph_.finalize();
  return graph_;
}

}  // namespace lockstep
