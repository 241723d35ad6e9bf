// From a dtype known at run time to code compiled for it.
#pragma once

#include <string>

#include "lockstep/core/dtype.h"
#include "lockstep/core/error.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {

[[noreturn]] inline void fail_dtype(const char* op, DType dtype) {
  fail(ErrorKind::kUsage, std::string(op) + ": dtype " + std::string(name_of(dtype)) + " is not supported");
}

// Calls function(T{}) with the floating type of dtype, float or double. Error (kUsage) naming `op` for any
// other.
template <class F>
void dispatch_accumulation(const char* op, DType dtype, const F& function) {
  switch (dtype) {
    case DType::kF32:
      return function(float{});
    case DType::kF64:
      return function(double{});
    default:
      fail_dtype(op, dtype);
  }
}

// The same for all four floating types: the type that elements are stored in. Arithmetic is in
// Accumulation<T>. With LOCKSTEP_FP32_AND_BF16 for these two alone: where kernels are compiled to be watched
// rather than compared, one type of each width takes half of the compiler's time.
template <class F>
void dispatch_floating(const char* op, DType dtype, const F& function) {
  switch (dtype) {
    case DType::kBF16:
      return function(BFloat16{});
#ifdef LOCKSTEP_FP32_AND_BF16
    case DType::kF32:
      return function(float{});
    default:
      fail_dtype(op, dtype);
#else
    case DType::kF16:
      return function(Float16{});
    default:
      return dispatch_accumulation(op, dtype, function);
#endif
  }
}

// The same for every type that arrays are stored in, integers too.
template <class F>
void dispatch_storable(const char* op, DType dtype, const F& function) {
  switch (dtype) {
    case DType::kI32:
      return function(int32_t{});
    case DType::kI64:
      return function(int64_t{});
    case DType::kU8:
      return function(uint8_t{});
    default:
      return dispatch_floating(op, dtype, function);
  }
}

// The same for the 16-bit types.
template <class F>
void dispatch_narrow(const char* op, DType dtype, const F& function) {
  switch (dtype) {
    case DType::kBF16:
      return function(BFloat16{});
#ifndef LOCKSTEP_FP32_AND_BF16
    case DType::kF16:
      return function(Float16{});
#endif
    default:
      fail_dtype(op, dtype);
  }
}

// Calls function(S{}, R{}), S being the type of what is normed and R the narrow one.
template <class F>
void dispatch_norm(const NormArguments& a, const F& function) {
  if (a.narrow == a.dtype)
    return dispatch_floating("norm", a.dtype, [&](auto type) { function(type, type); });
  if (a.dtype != DType::kF32) fail_dtype("norm beside another type", a.dtype);
  dispatch_narrow("norm beside fp32", a.narrow, [&](auto narrow) { function(float{}, narrow); });
}

// Error (kInternal) for combinations that MatmulArguments excludes.
inline void check_product(const MatmulArguments& a) {
  const bool derived = a.derivative_at != nullptr;
  const bool excluded = ((a.argument != nullptr || derived) && a.activation == Activation::kNone) ||
                        (derived && (a.bias != nullptr || a.argument != nullptr)) ||
                        (a.column_sums != nullptr && (a.bias != nullptr || a.batch != 1 || a.transpose_b));
  if (excluded)
    fail(ErrorKind::kInternal, "matmul: bias, activation and column sums that exclude each other");
}

// Error (kInternal) for a copy that UpdateArguments does not provide for.
inline void check_copy(const UpdateArguments& arguments) {
  if (arguments.copy == nullptr) return;
  if (arguments.dtype != DType::kF32) fail_dtype("update: parameters with a copy", arguments.dtype);
  if (accumulation_type(arguments.copy_dtype) == arguments.copy_dtype)
    fail_dtype("update: copy", arguments.copy_dtype);
}

}  // namespace lockstep
