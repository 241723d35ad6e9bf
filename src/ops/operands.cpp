// Refusing what an op cannot be applied to.
#include "lockstep/ops/operands.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"

namespace lockstep {

void refuse_operands(const char* op, const std::string& expected,
                     std::initializer_list<const Tensor*> given) {
  std::string list;
  size_t left = given.size();
  for (const Tensor* tensor : given) {
    list += tensor->defined() ? fmt::format("{} {}", tensor->shape().to_string(), name_of(tensor->dtype()))
                              : std::string("none");
    --left;
    list += left > 1 ? ", " : left == 1 ? " and " : "";
  }
  fail(ErrorKind::kUsage, fmt::format("{}: {} expected, got {}", op, expected, list));
}

void require_one_device(const char* op, std::initializer_list<const Tensor*> given) {
  Backend* first = nullptr;
  for (const Tensor* tensor : given) {
    if (!tensor->defined()) continue;
    Backend* const backend = &tensor->backend();
    if (first == nullptr) first = backend;
    // Several backends may stand for one device; the CPU's has no queue.
    if (backend != first && (backend->native_queue() == nullptr) != (first->native_queue() == nullptr))
      fail(ErrorKind::kUsage,
           fmt::format("{}: operands on one device expected, got some on the CPU and some on a GPU", op));
  }
}

}  // namespace lockstep
