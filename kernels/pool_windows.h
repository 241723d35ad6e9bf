// What every backend asks of the windows of a pooling call.
#pragma once

#include <string>

#include "lockstep/core/error.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {

// Every window must contain an element of the input, and the output must be what the windows say. Error
// (kInternal).
inline void check_pool(const char* op, const PoolArguments& p) {
  const bool valid = p.kh > 0 && p.kw > 0 && p.stride_h > 0 && p.stride_w > 0 && p.pad_h >= 0 &&
                     p.pad_w >= 0 && p.pad_h < p.kh && p.pad_w < p.kw &&
                     (p.oh - 1) * p.stride_h - p.pad_h + p.kh <= p.h + p.pad_h &&
                     (p.ow - 1) * p.stride_w - p.pad_w + p.kw <= p.w + p.pad_w;
  if (valid) return;
  const auto pair = [](int64_t a, int64_t b) { return std::to_string(a) + "x" + std::to_string(b); };
  fail(ErrorKind::kInternal,
       std::string(op) +
           ": windows must fit the padded input and padding be smaller than the window: input " +
           pair(p.h, p.w) + ", window " + pair(p.kh, p.kw) + ", stride " + pair(p.stride_h, p.stride_w) +
           ", padding " + pair(p.pad_h, p.pad_w) + ", output " + pair(p.oh, p.ow));
}

}  // namespace lockstep
