// Convolution and its derivatives as matrix products over patches: the elements under each window, one row a
// window, are gathered for as many images at a time as a bounded working memory holds, and multiplied by
// cuBLASLt.
//
// With rows = images * OH * OW and K = KH * KW * C:
//   y (rows, O) = patches (rows, K) weights' + bias
//   dpatches (rows, K) = dy (rows, O) weights, from which each element of dx gathers its windows in order
//   dweights (O, K) = dy' patches, ranges of images added in order
// A 1x1 window without stride or padding has x itself for patches.
// cuDNN, where there is one, goes first; this serves what it does not.
#include <algorithm>

#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/cudnn.h"
#include "lockstep/kernels/cuda/windows.h"
#include "lockstep/kernels/cuda/words.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int kThreads = 256;
// What a GPU's last cache holds, and enough rows to occupy it.
constexpr int64_t kPatchBytes = int64_t{32} << 20;

// The windows of a call over images whose channels are counted in units of so many elements.
struct Windows {
  ImageCells inputs, outputs, taps;  // taps: (row of K, kh, kw, channel)
  WindowAxis rows, columns;

  Windows(const ConvolutionArguments& a, int64_t elements_of_unit)
      : inputs(a.h, a.w, a.c / elements_of_unit),
        outputs(a.oh, a.ow, 1),
        taps(a.kh, a.kw, a.c / elements_of_unit),
        rows(a.kh, a.stride_h, a.pad_h, a.h, a.oh),
        columns(a.kw, a.stride_w, a.pad_w, a.w, a.ow) {}
};

// patches[row, tap, unit] = x under the tap, zero in the padding.
template <class Unit>
__global__ void __launch_bounds__(kThreads)
    patches_kernel(int64_t cells, Windows windows, const Unit* x, Unit* patches) {
  const int64_t i = global_thread();
  if (i >= cells) return;
  const ImageCells::Cell tap = windows.taps.at(static_cast<uint32_t>(i));
  const ImageCells::Cell output = windows.outputs.at(static_cast<uint32_t>(tap.image));
  const int row = output.row * windows.rows.stride - windows.rows.pad + tap.row;
  const int column = output.column * windows.columns.stride - windows.columns.pad + tap.column;
  Unit value{};
  if (row >= 0 && row < windows.rows.extent && column >= 0 && column < windows.columns.extent) {
    value = x[windows.inputs.pixel(output.image, row, column) + tap.channel];
  }
  patches[i] = value;
}

// dx[element] = sum of dpatches over the windows that hold it, N channels a thread.
template <class S, int N>
__global__ void __launch_bounds__(kThreads)
    gather_patches_kernel(int64_t cells, Windows windows, const Accumulation<S>* dpatches, S* dx) {
  using T = Accumulation<S>;
  const int64_t i = global_thread();
  if (i >= cells) return;
  const ImageCells::Cell input = windows.inputs.at(static_cast<uint32_t>(i));
  const WindowAxis::Range rows = windows.rows.windows_over(input.row);
  const WindowAxis::Range columns = windows.columns.windows_over(input.column);
  Vector<T, N> sum = {};
  for (int row = rows.begin; row < rows.end; ++row) {
    const int kh = input.row + windows.rows.pad - row * windows.rows.stride;
    for (int column = columns.begin; column < columns.end; ++column) {
      const int kw = input.column + windows.columns.pad - column * windows.columns.stride;
      const int64_t patch = windows.outputs.pixel(input.image, row, column);
      const Vector<T, N> part =
          load_vector<N>(dpatches + (windows.taps.pixel(patch, kh, kw) + input.channel) * N);
      LOCKSTEP_UNROLL
      for (int lane = 0; lane < N; ++lane) sum.lane[lane] += part.lane[lane];
    }
  }
  Vector<S, N> result;
  LOCKSTEP_UNROLL
  for (int lane = 0; lane < N; ++lane) result.lane[lane] = rounded<S>(sum.lane[lane]);
  store_vector(dx + i * N, result);
}

int64_t outputs_of(const ConvolutionArguments& a) {
  return a.oh * a.ow;
}
int64_t inputs_of(const ConvolutionArguments& a) {
  return a.h * a.w * a.c;
}
// K of the products.
int64_t patch_of(const ConvolutionArguments& a) {
  return a.kh * a.kw * a.c;
}

bool is_pointwise(const ConvolutionArguments& a) {
  return a.kh == 1 && a.kw == 1 && a.stride_h == 1 && a.stride_w == 1 && a.pad_h == 0 && a.pad_w == 0;
}

const char* offset(const void* array, int64_t elements, DType dtype) {
  return static_cast<const char*>(array) + elements * static_cast<int64_t>(size_of(dtype));
}
char* offset(void* array, int64_t elements, DType dtype) {
  return static_cast<char*>(array) + elements * static_cast<int64_t>(size_of(dtype));
}

// function(first, count) for ranges of images whose patches of `patch_type` fit the working memory; they
// follow from the call's extents alone.
template <class F>
void for_patch_ranges(const ConvolutionArguments& a, DType patch_type, const F& function) {
  const int64_t image_bytes = outputs_of(a) * patch_of(a) * static_cast<int64_t>(size_of(patch_type));
  const int64_t most =
      is_pointwise(a) ? a.n : std::max<int64_t>(1, kPatchBytes / std::max<int64_t>(1, image_bytes));
  const int64_t cells = std::max({int64_t{1}, outputs_of(a) * patch_of(a), inputs_of(a)});
  for_image_ranges("convolution", a.n, std::min(most, a.n), cells, function);
}

// Elements of the largest range's patches: what for_patch_ranges asks of the working memory.
int64_t most_patch_elements(const ConvolutionArguments& a, DType patch_type) {
  int64_t most = 0;
  for_patch_ranges(a, patch_type, [&](int64_t, int64_t count) {
    most = std::max(most, count * outputs_of(a) * patch_of(a));
  });
  return is_pointwise(a) ? 0 : most;
}

void gather_patches_of(const ConvolutionArguments& a, int64_t images, const void* x, void* patches,
                       cudaStream_t stream) {
  const size_t bytes = unit_of({static_cast<size_t>(a.c) * size_of(a.dtype), address(x)});
  const int64_t elements = static_cast<int64_t>(bytes / size_of(a.dtype));
  const int64_t cells = images * outputs_of(a) * patch_of(a) / elements;
  if (cells == 0) return;
  dispatch_unit(bytes, [&](auto type) {
    using Unit = decltype(type);
    LOCKSTEP_LAUNCH(patches_kernel<Unit>, blocks_for(cells, kThreads), kThreads, 0, stream, cells,
                    Windows(a, elements), static_cast<const Unit*>(x), static_cast<Unit*>(patches));
  });
}

}  // namespace

void CudaBackend::convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                              const void* bias, void* y) {
  const ConvolutionArguments& a = arguments;
  const int64_t results = outputs_of(a) * a.o;  // of an image
  if (a.n * results == 0) return;
  if (Cudnn* const library = cudnn()) {
    const void* const added =
        bias != nullptr && size_of(a.dtype) == 2 ? narrow_bias(a.dtype, a.o, bias) : bias;
    if (library->convolution(a, x, weights, added, y)) return;
    if (bias != nullptr && library->convolution(a, x, weights, nullptr, y)) {
      add_bias(a.dtype, a.n * results, a.o, bias, y);
      return;
    }
  }
  void* const memory = scratch_bytes(static_cast<size_t>(most_patch_elements(a, a.dtype)) * size_of(a.dtype));
  for_patch_ranges(a, a.dtype, [&](int64_t first, int64_t count) {
    const char* const images = offset(x, first * inputs_of(a), a.dtype);
    if (!is_pointwise(a)) gather_patches_of(a, count, images, memory, stream());
    MatmulArguments product;
    product.dtype = product.output = a.dtype;
    product.m = count * outputs_of(a);
    product.n = a.o;
    product.k = patch_of(a);
    product.a = is_pointwise(a) ? static_cast<const void*>(images) : memory;
    product.b = weights;
    product.transpose_b = true;
    product.c = offset(y, first * results, a.dtype);
    product.bias = bias;
    matmul(product);
  });
}

void CudaBackend::convolution_backward_data(const ConvolutionArguments& arguments, const void* dy,
                                            const void* weights, void* dx) {
  const ConvolutionArguments& a = arguments;
  const int64_t results = outputs_of(a) * a.o;
  if (a.n * inputs_of(a) == 0) return;
  if (results == 0) {
    check_cuda(cudaMemsetAsync(dx, 0, static_cast<size_t>(a.n * inputs_of(a)) * size_of(a.dtype), stream()),
               "convolution");
    return;
  }
  if (Cudnn* const library = cudnn();
      library != nullptr && library->convolution_backward_data(a, dy, weights, dx)) {
    return;
  }
  const DType wide = accumulation_type(a.dtype);
  void* const memory = scratch_bytes(static_cast<size_t>(most_patch_elements(a, wide)) * size_of(wide));
  for_patch_ranges(a, wide, [&](int64_t first, int64_t count) {
    void* const images = offset(dx, first * inputs_of(a), a.dtype);
    MatmulArguments product;
    product.dtype = a.dtype;
    product.output = is_pointwise(a) ? a.dtype : wide;
    product.m = count * outputs_of(a);
    product.n = patch_of(a);
    product.k = a.o;
    product.a = offset(dy, first * results, a.dtype);
    product.b = weights;
    product.c = is_pointwise(a) ? images : memory;
    matmul(product);
    if (is_pointwise(a)) return;
    dispatch_floating("convolution", a.dtype, [&](auto type) {
      using S = decltype(type);
      using T = Accumulation<S>;
      constexpr int kLanes = 16 / static_cast<int>(sizeof(T));
      const bool vectors = a.c % kLanes == 0 && aligned_to(sizeof(S) * kLanes, images);
      const int64_t lanes = vectors ? kLanes : 1, cells = count * inputs_of(a) / lanes;
      auto* const kernel = vectors ? gather_patches_kernel<S, kLanes> : gather_patches_kernel<S, 1>;
      LOCKSTEP_LAUNCH(kernel, blocks_for(cells, kThreads), kThreads, 0, stream(), cells, Windows(a, lanes),
                      static_cast<const T*>(memory), static_cast<S*>(images));
    });
  });
}

void CudaBackend::convolution_backward_weights(const ConvolutionArguments& arguments, const void* x,
                                               const void* dy, void* dweights) {
  const ConvolutionArguments& a = arguments;
  const DType wide = accumulation_type(a.dtype);
  const int64_t results = outputs_of(a) * a.o;
  if (a.o * patch_of(a) == 0) return;
  if (a.n * results == 0) {
    check_cuda(cudaMemsetAsync(dweights, 0, static_cast<size_t>(a.o * patch_of(a)) * size_of(wide), stream()),
               "convolution");
    return;
  }
  if (Cudnn* const library = cudnn();
      library != nullptr && library->convolution_backward_weights(a, x, dy, dweights)) {
    return;
  }
  void* const memory = scratch_bytes(static_cast<size_t>(most_patch_elements(a, a.dtype)) * size_of(a.dtype));
  for_patch_ranges(a, a.dtype, [&](int64_t first, int64_t count) {
    const char* const images = offset(x, first * inputs_of(a), a.dtype);
    if (!is_pointwise(a)) gather_patches_of(a, count, images, memory, stream());
    MatmulArguments product;
    product.dtype = a.dtype;
    product.output = wide;
    product.m = a.o;
    product.n = patch_of(a);
    product.k = count * outputs_of(a);
    product.transpose_a = true;
    product.a = offset(dy, first * results, a.dtype);
    product.b = is_pointwise(a) ? static_cast<const void*>(images) : memory;
    product.c = dweights;
    multiply(product, first > 0);
  });
}

}  // namespace lockstep
