// Copies of bytes in the largest words that addresses and extents allow.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "lockstep/kernels/cuda/dialect.h"

namespace lockstep {

using Word16 = Vector<uint32_t, 4>;

// The largest number of bytes up to 16 that all the given ones are multiples of.
inline size_t unit_of(std::initializer_list<size_t> bytes) {
  size_t unit = 16;
  for (size_t value : bytes) {
    while (value % unit != 0) unit /= 2;
  }
  return unit;
}

inline size_t address(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

// Calls function(Unit{}) with a type of `bytes` bytes, a power of two up to 16.
template <class F>
void dispatch_unit(size_t bytes, const F& function) {
  switch (bytes) {
    case 1:
      return function(uint8_t{});
    case 2:
      return function(uint16_t{});
    case 4:
      return function(uint32_t{});
    case 8:
      return function(uint64_t{});
    default:
      return function(Word16{});
  }
}

}  // namespace lockstep
