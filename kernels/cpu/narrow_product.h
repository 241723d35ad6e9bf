// A matrix times one of few columns: rows of the result in the lanes.
//
// A register tile of such a product has columns in its lanes, of which most may be empty, and reads an
// element of the matrix for every multiplication. Here squares of the matrix are transposed on their way to
// the registers, so that each lane has a row of its own. Sums are those of multiply(), to the bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "lockstep/kernels/cpu/matrix_copy.h"
#include "lockstep/kernels/cpu/vector.h"

namespace lockstep {

inline constexpr int kNarrowColumns = 12;
// Vectors of rows, so many that all sums are in registers.
constexpr int narrow_vectors(int64_t columns) {
  return 2 * columns <= (kVectorRegisters == 32 ? 24 : 12) ? 2 : 1;
}

// sums (columns, rows; columns lie `stride` apart) = a (as many rows as narrow_vectors() have lanes, elements
// of k; rows lda apart) times b (factors, columns; ldb apart), over blocks of `longest` factors, blocks one
// after the other. The rows that are `ahead` bytes further on are asked for, unless that is 0.
template <class In, int kColumns>
void multiply_group(int64_t elements, const In* a, int64_t lda, const Factor<In>* b, int64_t ldb,
                    int64_t longest, int64_t ahead, Sum<Factor<In>>* sums, int64_t stride) {
  using T = Factor<In>;
  constexpr int kAcross = narrow_vectors(kColumns);
  constexpr int64_t lanes = kLanes<T>, group = kGroup<T>, rows = kAcross * lanes;
  alignas(64) T square[lanes * rows];
  for (int64_t from = 0; from < elements; from += longest * group) {
    const int64_t end = std::min(elements, from + longest * group);
    Vector<Sum<T>> sum[kColumns][kAcross];
#pragma GCC unroll 12
    for (int j = 0; j < kColumns; ++j) {
#pragma GCC unroll 2
      for (int v = 0; v < kAcross; ++v) sum[j][v] = Vector<Sum<T>>{};
    }
    const auto add = [&](int64_t p, int64_t count) __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int v = 0; v < kAcross; ++v)
        transpose_rows<T>(a + v * lanes * lda + p, lda, count, square + v * lanes, rows);
      if (ahead != 0 && p * static_cast<int64_t>(sizeof(In)) % 64 == 0) {
        const char* line = reinterpret_cast<const char*>(a + p) + ahead;
        for (int i = 0; i < rows; ++i, line += lda * static_cast<int64_t>(sizeof(In)))
          __builtin_prefetch(line, 0, 2);
      }
      const T* right = b + p / group * ldb;
      for (int64_t q = 0; q < (count + group - 1) / group; ++q, right += ldb) {
        Vector<T> left[kAcross];
#pragma GCC unroll 2
        for (int v = 0; v < kAcross; ++v) left[v] = load(square + q * rows + v * lanes);
#pragma GCC unroll 12
        for (int j = 0; j < kColumns; ++j) {
          const Vector<T> factor = broadcast(right[j]);
#pragma GCC unroll 2
          for (int v = 0; v < kAcross; ++v) sum[j][v] = multiply_add(left[v], factor, sum[j][v]);
        }
      }
    };
    int64_t p = from;
    for (; p + lanes * group <= end; p += lanes * group) add(p, lanes * group);
    if (p < end) add(p, end - p);
#pragma GCC unroll 12
    for (int j = 0; j < kColumns; ++j) {
#pragma GCC unroll 2
      for (int v = 0; v < kAcross; ++v) {
        Sum<T>* const to = sums + j * stride + v * lanes;
        store(to, from == 0 ? sum[j][v] : load(to) + sum[j][v]);
      }
    }
  }
}

template <class In>
using GroupKernel = void (*)(int64_t, const In*, int64_t, const Factor<In>*, int64_t, int64_t, int64_t,
                             Sum<Factor<In>>*, int64_t);

template <class In, int... i>
inline GroupKernel<In> group_kernel(int64_t columns, std::integer_sequence<int, i...>) {
  constexpr GroupKernel<In> table[kNarrowColumns] = {multiply_group<In, i + 1>...};
  return table[columns - 1];
}

// The same of any number of rows from a group of them on: the last group ends with the last row, wherever it
// begins. `there`: how many rows there are of a; `fetches`: whether they come out of memory.
template <class In>
void multiply_narrow(int64_t rows, int64_t there, int64_t columns, int64_t elements, const In* a, int64_t lda,
                     const Factor<In>* b, int64_t ldb, int64_t longest, bool fetches, Sum<Factor<In>>* sums,
                     int64_t stride) {
  const auto kernel = group_kernel<In>(columns, std::make_integer_sequence<int, kNarrowColumns>{});
  const int64_t group = narrow_vectors(columns) * kLanes<Factor<In>>;
  for (int64_t next = 0; next < rows; next += group) {
    const int64_t row = std::min(next, rows - group);
    const bool asks = fetches && row + 2 * group <= there;
    kernel(elements, a + row * lda, lda, b, ldb, longest,
           asks ? group * lda * static_cast<int64_t>(sizeof(In)) : 0, sums + row, stride);
  }
}

}  // namespace lockstep
