// How a scalar formula is declared so that every backend can use it inside its loops.
#pragma once

#include "lockstep/core/philox.h"

// On every device, and always inlined: a loop over a formula becomes vector code only when no call is left in
// it, and compilers stop inlining on their own where many formulas meet in one file.
#if defined(__CUDACC__)
#define LOCKSTEP_FORMULA LOCKSTEP_HOST_DEVICE __forceinline__
#else
#define LOCKSTEP_FORMULA [[gnu::always_inline]] inline
#endif
