// What the caller of an op has to give it. Whoever writes a model of their own calls ops themselves: what
// does not fit is a mistake of theirs, not of the library, and is said with the op, the rule and what was
// given.
#pragma once

#include <initializer_list>
#include <string>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Error (kUsage): "OP: EXPECTED expected, got (2,3) fp32, (4) int32 and none".
[[noreturn]] void refuse_operands(const char* op, const std::string& expected,
                                  std::initializer_list<const Tensor*> given);

// Error (kUsage) unless all that are defined lie where one device can read them.
void require_one_device(const char* op, std::initializer_list<const Tensor*> given);

}  // namespace lockstep
