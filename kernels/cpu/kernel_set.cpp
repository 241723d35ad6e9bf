// This copy of the kernels of this folder, and what it is compiled for: a constant and no code, since a
// processor may have fewer instructions.
#include "lockstep/kernels/kernel_set.h"

namespace lockstep {

Backend& cpu_kernels();  // cpu_backend.h, which includes code

namespace {

// A macro that compilers define as 1 is spelt otherwise where they do not.
#define LOCKSTEP_SPELLING(macro) #macro
#define LOCKSTEP_IS_ONE(macro) (LOCKSTEP_SPELLING(macro)[0] == '1')

constexpr InstructionSet kCompiledFor = [] {
  InstructionSet set = 0, bit = 1;
#define LOCKSTEP_COMPILED(name, macro, vector_bytes, leaf, subleaf, index, position) \
  set |= LOCKSTEP_IS_ONE(macro) ? bit : 0;                                           \
  bit <<= 1;
  LOCKSTEP_INSTRUCTIONS(LOCKSTEP_COMPILED)
#undef LOCKSTEP_COMPILED
  return set;
}();

}  // namespace

}  // namespace lockstep

// The macro LOCKSTEP_KERNEL_SET is this constant's name, LOCKSTEP_KERNEL_SET_NAME what users call the set
// (kernels/cpu/CMakeLists.txt).
extern "C" const lockstep::KernelSet LOCKSTEP_KERNEL_SET;
constinit const lockstep::KernelSet LOCKSTEP_KERNEL_SET = {lockstep::kCompiledFor, LOCKSTEP_KERNEL_SET_NAME,
                                                           &lockstep::cpu_kernels};
