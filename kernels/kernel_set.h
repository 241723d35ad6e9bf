// The CPU's kernels as this build holds them: compiled once for one processor, or, side by side, for several
// sets of instructions (LOCKSTEP_CPU_ARCH=portable), of which a process uses one.
#pragma once

#include <span>
#include <string>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/instructions.h"

namespace lockstep {

// Each copy of kernels/cpu defines one, a constant that is read without any code of that copy.
struct KernelSet {
  InstructionSet instructions;  // what it was compiled for
  const char* name;             // "avx2"; what -march was given in a build for one processor
  Backend& (*kernels)();        // where the processor has the instructions
};

// What this build holds, the most demanding first.
std::span<const KernelSet* const> kernel_sets();

// Of the sets the one called `requested`, or where that is empty the first whose instructions are `present`
// and not `slow`, or else the first whose instructions are present. Error (kUsage) that names what is
// missing, or what there is.
const KernelSet& choose_kernel_set(std::span<const KernelSet* const> sets, InstructionSet present,
                                   InstructionSet slow, const std::string& requested);

// The set that this process uses: the one called LOCKSTEP_CPU_KERNELS where the environment has that, else
// the first that the processor has the instructions for, and is fast with. Error (kUsage) as above, each
// time.
const KernelSet& kernel_set();

// "native", or "portable: avx2, of avx512, avx2": the sets of this build, and the one in use.
std::string kernel_sets_text();

}  // namespace lockstep
