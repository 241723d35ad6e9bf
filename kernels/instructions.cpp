// The processor's instructions, asked for with CPUID.
#include "lockstep/kernels/instructions.h"

#include "lockstep/core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstring>
#endif

namespace lockstep {

namespace {

struct Extension {
  const char* name;
  int vector_bytes;
  uint32_t leaf, subleaf;
  int index, bit;
};

constexpr Extension kExtensions[] = {
#define LOCKSTEP_EXTENSION(name, macro, vector_bytes, leaf, subleaf, index, bit) \
  {name, vector_bytes, leaf, subleaf, index, bit},
    LOCKSTEP_INSTRUCTIONS(LOCKSTEP_EXTENSION)
#undef LOCKSTEP_EXTENSION
};

#if defined(__x86_64__)
bool processor_says(uint32_t leaf, uint32_t subleaf, int index, int bit) {
  uint32_t registers[4] = {};
  if (__get_cpuid_count(leaf, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) == 0)
    return false;
  return (registers[index] >> bit & 1) != 0;
}

// The vector registers that the operating system saves when it switches threads: 64, 32 or 0 bytes wide.
int saved_vector_bytes() {
  if (!processor_says(1, 0, 2, 27)) return 0;  // OSXSAVE
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr uint32_t kXmmYmm = 0x6, kMasksZmm = 0xE0;
  if ((low & kXmmYmm) != kXmmYmm) return 0;
  return (low & kMasksZmm) == kMasksZmm ? 64 : 32;
}
#endif

}  // namespace

InstructionSet processor_instructions() {
  InstructionSet present = 0;
#if defined(__x86_64__)
  const int saved = saved_vector_bytes();
  InstructionSet bit = 1;
  for (const Extension& extension : kExtensions) {
    if (extension.vector_bytes <= saved &&
        processor_says(extension.leaf, extension.subleaf, extension.index, extension.bit)) {
      present |= bit;
    }
    bit <<= 1;
  }
#endif
  return present;
}

InstructionSet slow_instructions() {
#if defined(__x86_64__)
  uint32_t most = 0, vendor[3] = {};
  if (__get_cpuid(0, &most, &vendor[0], &vendor[2], &vendor[1]) == 0) return 0;
  const InstructionSet later = instructions_named({"AVX-512FP16"});  // than Cooper Lake
  if (std::memcmp(vendor, "GenuineIntel", sizeof(vendor)) == 0 && (processor_instructions() & later) == later)
    return instructions_named({"AVX-512BF16"});
#endif
  return 0;
}

InstructionSet instructions_named(const std::vector<std::string>& names) {
  InstructionSet set = 0;
  for (const std::string& name : names) {
    InstructionSet bit = 1;
    bool found = false;
    for (const Extension& extension : kExtensions) {
      if (name == extension.name) set |= bit, found = true;
      bit <<= 1;
    }
    if (!found) fail(ErrorKind::kInternal, "instructions: no extension is called " + name);
  }
  return set;
}

std::string missing_instructions(InstructionSet needed, InstructionSet present) {
  std::string names;
  InstructionSet bit = 1;
  for (const Extension& extension : kExtensions) {
    if ((needed & ~present & bit) != 0) names += (names.empty() ? "" : ", ") + std::string(extension.name);
    bit <<= 1;
  }
  if (names.empty()) return "";
  return "cpu: this build's kernels need instructions that this processor or its operating system lacks: " +
         names + "; build it here for this processor: cmake --preset release -DLOCKSTEP_CPU_ARCH=native";
}

}  // namespace lockstep
