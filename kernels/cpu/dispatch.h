// From a dtype known at run time to code compiled for it.
#pragma once

#include <string>

#include "core/dtype.h"
#include "core/error.h"

namespace lockstep {

[[noreturn]] inline void fail_dtype(const char* op, DType dtype) {
  fail(ErrorKind::kInternal,
       std::string(op) + ": dtype " + std::string(name_of(dtype)) + " is not supported by the cpu backend");
}

// Calls function(T{}) with the floating type of dtype. Error (kInternal) naming `op` for a type without
// kernels.
template <class F>
void dispatch_floating(const char* op, DType dtype, const F& function) {
  switch (dtype) {
    case DType::kF32:
      return function(float{});
    case DType::kF64:
      return function(double{});
    default:
      fail_dtype(op, dtype);
  }
}

}  // namespace lockstep
