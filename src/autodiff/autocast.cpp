// The state of autocast on a thread.
#include "lockstep/autodiff/autocast.h"

#include <fmt/format.h>

#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

thread_local DType current_compute = DType::kF32;
thread_local AutocastScope::Copies* current_copies = nullptr;

bool is_half(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16;
}

DType widest(DType a, DType b) {
  if (a == b) return a;
  return a == DType::kF64 || b == DType::kF64
             ? DType::kF64
             : DType::kF32;  // bf16 and fp16 hold each other's values in fp32
}

}  // namespace

AutocastScope::AutocastScope(DType compute, const Copies* kept)
    : previous_compute_(current_compute), previous_copies_(current_copies) {
  if (!is_floating(compute))
    fail(ErrorKind::kUsage, fmt::format("autocast: cannot compute in {}", name_of(compute)));
  if (kept != nullptr && (!is_half(compute) || kept->dtype != compute)) {
    fail(ErrorKind::kUsage, fmt::format("autocast: computes in {}, was given copies in {}", name_of(compute),
                                        name_of(kept->dtype)));
  }
  current_compute = is_half(compute) ? compute : DType::kF32;
  if (is_half(compute) &&
      (kept != nullptr || current_copies == nullptr || current_copies->dtype != compute)) {
    own_ = std::make_unique<Copies>(Copies{compute, {}, kept});
    current_copies = own_.get();
  }
}

AutocastScope::~AutocastScope() {
  current_compute = previous_compute_;
  current_copies = previous_copies_;
}

DType autocast_compute() {
  return current_compute;
}

DType autocast_type(OpFamily family, DType given) {
  if (current_compute == DType::kF32) return given;
  switch (cast_rule(family)) {
    case CastRule::kCompute:
      return given == DType::kF64 || !is_floating(given) ? given : current_compute;
    case CastRule::kSingle:
      return accumulation_type(given);
    case CastRule::kWidest:
      break;
  }
  return given;
}

DType autocast_type(OpFamily family, DType a, DType b, const char* where) {
  if (a == b) return autocast_type(family, a);
  if (current_compute != DType::kF32 && is_floating(a) && is_floating(b)) {
    const CastRule rule = cast_rule(family);
    const DType wide = widest(a, b);
    if (rule == CastRule::kCompute && wide != DType::kF64) return current_compute;
    if (rule == CastRule::kWidest) return wide;
  }
  fail(ErrorKind::kUsage, fmt::format("{}: dtypes differ: {} and {}", where, name_of(a), name_of(b)));
}

namespace {

Tensor copy_of(const Tensor& leaf, AutocastScope::Copies& copies) {
  if (copies.kept != nullptr) {
    const auto kept = copies.kept->pairs.find(leaf.node().get());
    if (kept != copies.kept->pairs.end()) return kept->second.lowered;
  }
  const auto [found, fresh] = copies.pairs.try_emplace(leaf.node().get());
  if (fresh) found->second = {leaf, leaf.converted(copies.dtype)};
  return found->second.lowered;
}

}  // namespace

const void* Operand::convert(const Tensor& x, DType dtype) {
  const bool leaf = x.node() != nullptr && x.node()->inputs.empty();
  if (leaf && current_copies != nullptr && current_copies->dtype == dtype) {
    copy_ = copy_of(x, *current_copies);
  } else {
    copy_ = x.converted(dtype);
  }
  return copy_.data();
}

}  // namespace lockstep
