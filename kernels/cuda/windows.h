// Images (n, rows, columns, channels) and the windows that convolution and pooling slide over them.
#pragma once

#include <algorithm>
#include <string>

#include "lockstep/core/error.h"
#include "lockstep/kernels/cuda/division.h"

namespace lockstep {

// From the row-major index of a cell of (n, rows, columns, channels) to its coordinates.
struct ImageCells {
  Divisor rows, columns, channels;

  ImageCells(int64_t rows_, int64_t columns_, int64_t channels_)
      : rows(rows_), columns(columns_), channels(channels_) {}
  struct Cell {
    int64_t image;
    int row, column, channel;
  };
  LOCKSTEP_DEVICE Cell at(uint32_t cell) const {
    const uint32_t pixel = channels.quotient(cell);
    const uint32_t line = columns.quotient(pixel);
    const uint32_t image = rows.quotient(line);
    return {image, static_cast<int>(line - image * rows.divisor),
            static_cast<int>(pixel - line * columns.divisor),
            static_cast<int>(cell - pixel * channels.divisor)};
  }
  // Index of channel 0 of a pixel.
  LOCKSTEP_DEVICE int64_t pixel(int64_t image, int row, int column) const {
    return ((image * static_cast<int64_t>(rows.divisor) + row) * static_cast<int64_t>(columns.divisor) +
            column) *
           static_cast<int64_t>(channels.divisor);
  }
};

// Windows along one axis: window i holds positions i * stride - pad up to + size, of which those in [0,
// extent) exist.
struct WindowAxis {
  int size, stride, pad, extent, windows;

  WindowAxis(int64_t size_, int64_t stride_, int64_t pad_, int64_t extent_, int64_t windows_)
      : size(static_cast<int>(size_)),
        stride(static_cast<int>(stride_)),
        pad(static_cast<int>(pad_)),
        extent(static_cast<int>(extent_)),
        windows(static_cast<int>(windows_)) {}
  struct Range {
    int begin, end;
  };
  LOCKSTEP_DEVICE Range positions_of(int window) const {
    const int first = window * stride - pad, end = first + size;
    return {first > 0 ? first : 0, end < extent ? end : extent};
  }
  LOCKSTEP_DEVICE Range windows_over(int position) const {
    const int first = position + pad - size + 1, end = (position + pad) / stride + 1;
    return {first > 0 ? (first + stride - 1) / stride : 0, end < windows ? end : windows};
  }
};

// function(first, count) for consecutive ranges of n images, each of at most `most` images and of cells that
// a walk can count. Error (kInternal) naming `op` when a single image has too many.
template <class F>
void for_image_ranges(const char* op, int64_t n, int64_t most, int64_t cells_of_image, const F& function) {
  if (n == 0 || cells_of_image == 0) return;
  const int64_t count = std::min(most, kLongestWalk / cells_of_image);
  if (count == 0) {
    fail(ErrorKind::kInternal, std::string(op) + ": " + std::to_string(cells_of_image) +
                                   " cells of one image are more than a launch can count");
  }
  for (int64_t first = 0; first < n; first += count) function(first, std::min(count, n - first));
}

}  // namespace lockstep
