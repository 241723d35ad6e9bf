// Memory of kernels: aligned to cache lines, and in large pages where it is large.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>

namespace lockstep {

// 64-byte aligned, contents undefined; null when the system has none left. Given back with std::free.
//
// From 2 MiB on it begins on a large page and the system is asked for large pages: a matrix has rows on pages
// of their own otherwise, and a product spends its time on finding them (128x2048x2048 (m,k,n): 86 GFLOP/s in
// pages of 4 KiB, 104 in large ones).
inline void* allocate_pages(size_t bytes) {
  constexpr size_t kLine = 64, kLargePage = size_t{2} << 20;
  const size_t rounded = (bytes + kLine - 1) / kLine * kLine;
  if (rounded < bytes) return nullptr;
#if defined(MADV_HUGEPAGE)
  if (rounded >= kLargePage) {
    void* pointer = nullptr;
    if (posix_memalign(&pointer, kLargePage, rounded) != 0) return nullptr;
    // Whether the system has such pages to give is its affair: only speed depends on it.
    madvise(pointer, rounded, MADV_HUGEPAGE);
    return pointer;
  }
#endif
  return std::aligned_alloc(kLine, rounded);
}

}  // namespace lockstep
