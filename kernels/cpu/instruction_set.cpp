// What the kernels of this folder are compiled for: a constant and no code, since a processor may have fewer
// instructions.
#include "lockstep/kernels/instructions.h"

namespace lockstep {

// A macro that compilers define as 1 is spelt otherwise where they do not.
#define LOCKSTEP_SPELLING(macro) #macro
#define LOCKSTEP_IS_ONE(macro) (LOCKSTEP_SPELLING(macro)[0] == '1')

constinit const InstructionSet kKernelInstructions = [] {
  InstructionSet set = 0, bit = 1;
#define LOCKSTEP_COMPILED(name, macro, vector_bytes, leaf, subleaf, index, position) \
  set |= LOCKSTEP_IS_ONE(macro) ? bit : 0;                                           \
  bit <<= 1;
  LOCKSTEP_INSTRUCTIONS(LOCKSTEP_COMPILED)
#undef LOCKSTEP_COMPILED
  return set;
}();

}  // namespace lockstep
