// Conversion between floating types.
#include "lockstep/ops/cast.h"

#include <fmt/format.h>

#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

class CastNode final : public Node {
 public:
  explicit CastNode(DType from, DType to) : from_(from), to_(to) {}
  const char* name() const override { return "cast"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = cast(cotangent, from_);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return cast(tangents[0], to_);
  }

 private:
  DType from_, to_;
};

}  // namespace

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  if (!is_floating(x.dtype()) || !is_floating(dtype)) {
    fail(ErrorKind::kUsage,
         fmt::format("cast: {} to {}: both must be floating", name_of(x.dtype()), name_of(dtype)));
  }
  return record<CastNode>(x.converted(dtype), {&x}, x.dtype(), dtype);
}

}  // namespace lockstep
