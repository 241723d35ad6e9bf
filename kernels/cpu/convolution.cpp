// Convolution and its derivatives as register tiles over pixels, read in place from NHWC: no patch matrix, no
// reordering of activations, no multiplication by padding.
//
// Pixels whose window meets the same taps form a class (a 3x3 window with padding has nine: corners, edges,
// interior). The pixels of a class, of several images together, are the rows of a matrix product with the
// weights of those taps. The order in which an element is summed depends on its taps alone, so it has the
// same bits in every batch and on every number of threads.
//
// `convolution_benchmark 1` on a Zen 4 core, against oneDNN 2.6.3 that has its operands in blocked layouts
// already: 0.76 to 1.30 of its speed from 16 channels up (0.93 to 1.0 at 8x8x32 to 32), 0.46 to 1.03 for
// first layers of 1 or 3 channels. bf16 goes through the processor's units in pairs of channels, but for
// weight gradients and odd numbers of channels; what these need as float is converted first.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "lockstep/core/shape.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/cpu/convolution_tile.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/matrix_copy.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/cpu/vector.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// Images of a group of work: enough that even the corners of small images fill a tile, and elements that stay
// in cache.
constexpr int64_t kGroupImages = 16;
constexpr int64_t kGroupElements = int64_t{1} << 16;
// dW is summed over chunks of images, at most kChunks and of at least kChunkRows output positions, and then
// over the chunks in order. These numbers are part of the result's definition.
constexpr int64_t kChunks = 16;
constexpr int64_t kChunkRows = 256;
// Below this many channels one tap alone fills too few rows of a tile of dW: taps share tiles then, over a
// padded copy.
constexpr int64_t kFewChannels = 6;

template <class T>
void add_elements(int64_t n, const T* x, T* y) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, load(y + i) + load(x + i));
  if (i < n) store_first(y + i, n - i, load_first(y + i, n - i) + load_first(x + i, n - i));
}

// Output positions along one axis whose window has the given tap over x.
struct Span {
  int64_t begin, end;
};
Span positions_of_tap(int64_t tap, int64_t extent, int64_t stride, int64_t pad, int64_t output) {
  const int64_t first = pad - tap, last = extent - 1 + pad - tap;  // i * stride lies between
  const int64_t begin = first > 0 ? divide_up(first, stride) : 0;
  return {begin, last < 0 ? begin : std::max(begin, std::min(output, last / stride + 1))};
}

// Coordinates along one axis of the result that meet the same taps.
struct AxisClass {
  int64_t tap, count;                // first tap, and how many
  std::vector<int64_t> coordinates;  // in the result
  std::vector<int64_t> bases;  // where the first tap falls in the operand; further taps fall on the next ones
};

void add_coordinate(std::vector<AxisClass>& classes, int64_t coordinate, int64_t base, int64_t tap,
                    int64_t count) {
  if (count <= 0) base = tap = count = 0;
  auto found = std::find_if(classes.begin(), classes.end(),
                            [&](const AxisClass& c) { return c.tap == tap && c.count == count; });
  if (found == classes.end()) found = classes.insert(classes.end(), AxisClass{tap, count, {}, {}});
  found->coordinates.push_back(coordinate);
  found->bases.push_back(base);
}

// y[i] = sum over taps of x[i * stride - pad + tap].
std::vector<AxisClass> forward_classes(int64_t extent, int64_t kernel, int64_t stride, int64_t pad,
                                       int64_t output) {
  std::vector<AxisClass> classes;
  for (int64_t i = 0; i < output; ++i) {
    const int64_t start = i * stride - pad, low = std::max<int64_t>(0, -start);
    add_coordinate(classes, i, start + low, low, std::min(kernel, extent - start) - low);
  }
  return classes;
}

// dx[h] = sum over q of dy[q] where h = q * stride - pad + tap: the tap falls by `stride` from one q to the
// next.
std::vector<AxisClass> backward_classes(int64_t extent, int64_t kernel, int64_t stride, int64_t pad,
                                        int64_t output) {
  std::vector<AxisClass> classes;
  for (int64_t h = 0; h < extent; ++h) {
    const int64_t low = std::max<int64_t>(0, h + pad - kernel + 1);
    const int64_t first = divide_up(low, stride), last = std::min((h + pad) / stride, output - 1);
    add_coordinate(classes, h, first, h + pad - first * stride, last - first + 1);
  }
  return classes;
}

// A convolution-like sum of pixels: result (N, result h, result w, columns) from operand (N, h, w, channels).
// Channels are counted in factors: pairs of them where the processor multiplies bf16.
template <class T>
struct PixelSum {
  int64_t images;
  int64_t h, w, channels;                     // operand
  int64_t result_h, result_w, columns;        // result
  int64_t kernel_w, tap_step_h, tap_step_w;   // from one pixel of the operand to the next
  const std::vector<AxisClass>&rows, &lines;  // along h and w
  const T* operand;
  const T* weights;  // panels of two vectors: (panel, tap, channel, columns of the panel)
  int64_t weight_rows;
  const Sum<T>* bias;
  Sum<T>* result;
};

template <class T>
void sum_pixels(const PixelSum<T>& sum) {
  constexpr int64_t panel = kTileVectors * kLanes<T>;
  // Per pair of classes: the stretches that are contiguous in operand and weights.
  std::vector<std::vector<Stretch>> stretches;
  for (const AxisClass& row : sum.rows) {
    for (const AxisClass& line : sum.lines) {
      std::vector<Stretch>& list = stretches.emplace_back();
      for (int64_t i = 0; i < row.count; ++i) {
        for (int64_t j = 0; j < line.count; ++j) {
          const int64_t tap = (row.tap + i * sum.tap_step_h) * sum.kernel_w + line.tap + j * sum.tap_step_w;
          const Stretch next{(i * sum.w + j) * sum.channels, tap * sum.channels, sum.channels};
          if (!list.empty() && list.back().left + list.back().length == next.left &&
              list.back().right + list.back().length == next.right) {
            list.back().length += next.length;
          } else {
            list.push_back(next);
          }
        }
      }
    }
  }
  const int64_t image_elements = sum.h * sum.w * sum.channels;
  const int64_t result_elements = sum.result_h * sum.result_w * sum.columns;
  const int64_t longest =
      std::clamp<int64_t>(kGroupElements / std::max<int64_t>(image_elements, 1), 1, kGroupImages);
  // As many groups for every thread; which image is in which group does not matter to its bits.
  const int64_t threads = thread_pool().threads();
  const int64_t groups = std::min(sum.images, divide_up(divide_up(sum.images, longest), threads) * threads);

  thread_pool().run(groups, [&](int64_t group) {
    const int64_t first = group * sum.images / groups, last = (group + 1) * sum.images / groups;
    std::array<int64_t, kTileRows> left_rows, result_rows;
    PixelTile<T> tile{};
    tile.left = sum.operand;
    tile.left_rows = left_rows.data();
    tile.result_rows = result_rows.data();
    const std::vector<Stretch>* list = stretches.data();
    for (const AxisClass& row : sum.rows) {
      for (const AxisClass& line : sum.lines) {
        tile.stretches = list->data();
        tile.stretch_count = static_cast<int64_t>(list->size());
        ++list;
        const size_t height = row.coordinates.size(), width = line.coordinates.size();
        const int64_t pixels = (last - first) * static_cast<int64_t>(height * width);
        const int64_t tiles = divide_up(pixels, kTileRows);
        int64_t image = first;
        size_t i = 0, j = 0;
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t rows = pixels / tiles + (t < pixels % tiles ? 1 : 0);
          for (int64_t r = 0; r < rows; ++r) {
            left_rows[r] = image * image_elements + (row.bases[i] * sum.w + line.bases[j]) * sum.channels;
            result_rows[r] = image * result_elements +
                             (row.coordinates[i] * sum.result_w + line.coordinates[j]) * sum.columns;
            if (++j == width) {
              j = 0;
              if (++i == height) {
                i = 0;
                ++image;
              }
            }
          }
          for (int64_t column = 0; column < sum.columns; column += panel) {
            tile.columns = std::min(panel, sum.columns - column);
            tile.right = sum.weights + column * sum.weight_rows;
            tile.bias = sum.bias ? sum.bias + column : nullptr;
            tile.result = sum.result + column;
            pixel_kernel<T>(rows, divide_up(tile.columns, kLanes<T>))(tile);
          }
        }
      }
    }
  });
}

// Elements of weight panels for `columns` columns of `rows` rows; the last panel is as wide as it needs whole
// vectors.
template <class T>
int64_t panel_elements(int64_t rows, int64_t columns) {
  return rows * divide_up(columns, kLanes<T>) * kLanes<T>;
}

// Elements of type S, multiplied as factors T: the same type, or pairs of neighbouring channels.
template <class T, class S>
void forward(const ConvolutionArguments& a, const S* x, const S* weights, const Sum<T>* bias, Sum<T>* y) {
  constexpr int64_t panel = kTileVectors * kLanes<T>;
  const int64_t channels = a.c / kGroup<T>, taps = a.kh * a.kw * channels, elements = taps * kGroup<T>;
  thread_local Scratch scratch;
  T* const panels = scratch.get<T>(panel_elements<T>(taps, a.o));
  for (int64_t o = 0; o < a.o; o += panel) {
    const int64_t columns = std::min(panel, a.o - o);
    transpose_padded(columns, elements, weights + o * elements, elements, panels + o * taps,
                     divide_up(columns, kLanes<T>) * kLanes<T>);
  }
  const std::vector<AxisClass> rows = forward_classes(a.h, a.kh, a.stride_h, a.pad_h, a.oh);
  const std::vector<AxisClass> lines = forward_classes(a.w, a.kw, a.stride_w, a.pad_w, a.ow);
  sum_pixels<T>({a.n, a.h, a.w, channels, a.oh, a.ow, a.o, a.kw, 1, 1, rows, lines,
                 reinterpret_cast<const T*>(x), panels, taps, bias, y});
}

template <class T, class S>
void backward_data(const ConvolutionArguments& a, const S* dy, const S* weights, Sum<T>* dx) {
  constexpr int64_t panel = kTileVectors * kLanes<T>;
  // Rows of the panels are (kh, kw, o), columns are c.
  const int64_t channels = a.o / kGroup<T>, taps = a.kh * a.kw, taps_o = taps * channels;
  thread_local Scratch scratch;
  T* const panels = scratch.get<T>(panel_elements<T>(taps_o, a.c));
  for (int64_t c = 0; c < a.c; c += panel) {
    const int64_t columns = std::min(panel, a.c - c), width = divide_up(columns, kLanes<T>) * kLanes<T>;
    for (int64_t tap = 0; tap < taps; ++tap) {
      copy_padded(a.o, columns, weights + tap * a.c + c, taps * a.c,
                  panels + c * taps_o + tap * channels * width, width);
    }
  }
  const std::vector<AxisClass> rows = backward_classes(a.h, a.kh, a.stride_h, a.pad_h, a.oh);
  const std::vector<AxisClass> lines = backward_classes(a.w, a.kw, a.stride_w, a.pad_w, a.ow);
  sum_pixels<T>({a.n, a.oh, a.ow, channels, a.h, a.w, a.c, a.kw, -a.stride_h, -a.stride_w, rows, lines,
                 reinterpret_cast<const T*>(dy), panels, taps_o, static_cast<const Sum<T>*>(nullptr), dx});
}

// dW' (kh, kw, c; o): rows are elements of the window, columns output channels. A tile holds channels of one
// tap and walks the output positions at which that tap meets x; with few channels it holds all taps and walks
// a copy of x with padding.
template <class T>
void backward_weights(const ConvolutionArguments& a, const T* x, const T* dy, T* dweights) {
  constexpr int64_t lanes = kLanes<T>, panel = kTileVectors * lanes;
  const int64_t taps = a.kh * a.kw, elements = taps * a.c;
  const int64_t columns = divide_up(a.o, lanes) * lanes;
  const int64_t positions = a.oh * a.ow;
  const int64_t chunk_images =
      std::max(divide_up(kChunkRows, std::max<int64_t>(positions, 1)), divide_up(a.n, kChunks));
  const int64_t chunks = std::max<int64_t>(1, divide_up(a.n, chunk_images));

  thread_local Scratch sums_scratch, dy_scratch, x_scratch;
  T* const sums = sums_scratch.get<T>(chunks * elements * columns);
  if (columns != a.o) {  // tiles read whole vectors
    T* const padded = dy_scratch.get<T>(a.n * positions * columns);
    parallel_ranges(a.n * positions, std::max<int64_t>(1, kElementGrain / columns),
                    [&](int64_t begin, int64_t end) {
                      copy_padded(end - begin, a.o, dy + begin * a.o, a.o, padded + begin * columns, columns);
                    });
    dy = padded;
  }
  const bool few = a.c <= kFewChannels;
  const int64_t height = few ? a.h + 2 * a.pad_h : a.h, width = few ? a.w + 2 * a.pad_w : a.w;
  const int64_t pad_h = few ? 0 : a.pad_h, pad_w = few ? 0 : a.pad_w;
  if (few && (a.pad_h > 0 || a.pad_w > 0)) {
    T* const padded = x_scratch.get<T>(a.n * height * width * a.c);
    parallel_ranges(a.n * height, std::max<int64_t>(1, kElementGrain / (width * a.c)),
                    [&](int64_t begin, int64_t end) {
                      for (int64_t line = begin; line < end; ++line) {
                        T* const to = padded + line * width * a.c;
                        std::fill_n(to, width * a.c, T{0});
                        const int64_t h = line % height - a.pad_h;
                        if (h < 0 || h >= a.h) continue;
                        std::memcpy(to + a.pad_w * a.c, x + (line / height * a.h + h) * a.w * a.c,
                                    static_cast<size_t>(a.w * a.c) * sizeof(T));
                      }
                    });
    x = padded;
  }
  const int64_t shares = few ? 1 : taps;  // of a chunk: its taps
  const int64_t share_rows = elements / shares;
  thread_pool().run(chunks * shares, [&](int64_t item) {
    const int64_t chunk = item / shares, share = item % shares;
    const int64_t image = chunk * chunk_images;
    // Output positions at which the tap of this share meets x.
    const int64_t kh = few ? 0 : share / a.kw, kw = few ? 0 : share % a.kw;
    const Span rows_met = few ? Span{0, a.oh} : positions_of_tap(kh, a.h, a.stride_h, a.pad_h, a.oh);
    const Span columns_met = few ? Span{0, a.ow} : positions_of_tap(kw, a.w, a.stride_w, a.pad_w, a.ow);
    const int64_t top = rows_met.begin, left = columns_met.begin;
    Walk walk;
    walk.images = std::min(chunk_images, a.n - image);
    walk.lines = rows_met.end - top;
    walk.pixels = columns_met.end - left;
    walk.left_pixel = a.stride_w * a.c;
    walk.left_line = a.stride_h * width * a.c;
    walk.left_image = height * width * a.c;
    walk.right_pixel = columns;
    walk.right_line = a.ow * columns;
    walk.right_image = positions * columns;
    const int64_t x_start =
        ((image * height + top * a.stride_h - pad_h) * width + left * a.stride_w - pad_w) * a.c;
    const int64_t dy_start = ((image * a.oh + top) * a.ow + left) * columns;
    const int64_t tiles = divide_up(share_rows, kTileRows);
    for (int64_t t = 0, element = share * share_rows; t < tiles; ++t) {
      const int64_t rows = share_rows / tiles + (t < share_rows % tiles ? 1 : 0);
      std::array<int64_t, kTileRows> offsets;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t tap = (element + r) / a.c;
        offsets[r] = x_start + (tap / a.kw * width + tap % a.kw) * a.c + (element + r) % a.c;
      }
      for (int64_t o = 0; o < columns; o += panel) {
        const int64_t vectors = std::min<int64_t>(kTileVectors, (columns - o) / lanes);
        walk_kernel<T>(rows, vectors)(walk, x, offsets.data(), dy + dy_start + o,
                                      sums + (chunk * elements + element) * columns + o, columns);
      }
      element += rows;
    }
  });
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    add_elements(elements * columns, sums + chunk * elements * columns, sums);
  }
  transpose_matrix(elements, a.o, sums, columns, dweights, elements);
}

// x in fp32.
template <class S>
const float* widen(int64_t n, const void* x, Scratch& scratch) {
  float* const y = scratch.get<float>(n);
  cpu_kernels().cast(dtype_of<S>, DType::kF32, n, x, y);
  return y;
}

// Calls function with what the elements of an operand are multiplied as: pairs of neighbouring channels where
// the processor does that and there is an even number of them, else float.
template <class S, class F>
void with_factor(int64_t channels, const F& function) {
  if constexpr (std::is_same_v<Factor<S>, Pair>) {
    if (channels % 2 == 0) return function(Pair{});
  }
  function(float{});
}

}  // namespace

void CpuBackend::convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                             const void* bias, void* y) {
  const ConvolutionArguments& a = arguments;
  dispatch_floating("convolution", arguments.dtype, [&]<class S>(S) {
    const auto* const stored_x = static_cast<const S*>(x);
    const auto* const stored_weights = static_cast<const S*>(weights);
    const auto* const stored_bias = static_cast<const Accumulation<S>*>(bias);
    if constexpr (sizeof(S) == 2) {
      thread_local Scratch x_scratch, weights_scratch, y_scratch;
      const int64_t results = a.n * a.oh * a.ow * a.o;
      float* const wide = y_scratch.get<float>(results);
      with_factor<S>(a.c, [&]<class T>(T) {
        if constexpr (std::is_same_v<T, Pair>) {
          return forward<Pair>(a, stored_x, stored_weights, stored_bias, wide);
        }
        forward<float>(a, widen<S>(a.n * a.h * a.w * a.c, x, x_scratch),
                       widen<S>(a.o * a.kh * a.kw * a.c, weights, weights_scratch), stored_bias, wide);
      });
      cast(DType::kF32, a.dtype, results, wide, y);
    } else {
      forward<S>(a, stored_x, stored_weights, stored_bias, static_cast<S*>(y));
    }
  });
}

void CpuBackend::convolution_backward_data(const ConvolutionArguments& arguments, const void* dy,
                                           const void* weights, void* dx) {
  const ConvolutionArguments& a = arguments;
  dispatch_floating("convolution", arguments.dtype, [&]<class S>(S) {
    const auto* const stored_dy = static_cast<const S*>(dy);
    const auto* const stored_weights = static_cast<const S*>(weights);
    if constexpr (sizeof(S) == 2) {
      thread_local Scratch dy_scratch, weights_scratch, dx_scratch;
      const int64_t results = a.n * a.h * a.w * a.c;
      float* const wide = dx_scratch.get<float>(results);
      with_factor<S>(a.o, [&]<class T>(T) {
        if constexpr (std::is_same_v<T, Pair>) return backward_data<Pair>(a, stored_dy, stored_weights, wide);
        backward_data<float>(a, widen<S>(a.n * a.oh * a.ow * a.o, dy, dy_scratch),
                             widen<S>(a.o * a.kh * a.kw * a.c, weights, weights_scratch), wide);
      });
      cast(DType::kF32, a.dtype, results, wide, dx);
    } else {
      backward_data<S>(a, stored_dy, stored_weights, static_cast<S*>(dx));
    }
  });
}

void CpuBackend::convolution_backward_weights(const ConvolutionArguments& arguments, const void* x,
                                              const void* dy, void* dweights) {
  const ConvolutionArguments& a = arguments;
  dispatch_floating("convolution", arguments.dtype, [&]<class S>(S) {
    if constexpr (sizeof(S) == 2) {
      thread_local Scratch x_scratch, dy_scratch;
      backward_weights(a, widen<S>(a.n * a.h * a.w * a.c, x, x_scratch),
                       widen<S>(a.n * a.oh * a.ow * a.o, dy, dy_scratch), static_cast<float*>(dweights));
    } else {
      backward_weights(a, static_cast<const S*>(x), static_cast<const S*>(dy), static_cast<S*>(dweights));
    }
  });
}

}  // namespace lockstep
