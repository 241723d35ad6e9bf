// Choosing among the sets of CPU kernels of this build.
#include "lockstep/kernels/kernel_set.h"

#include <cstdlib>

#include "lockstep/core/error.h"

// The macro LOCKSTEP_KERNEL_SETS is LOCKSTEP_SET(NAME) for every set that is linked (kernels/CMakeLists.txt).
#define LOCKSTEP_SET(name) extern "C" const lockstep::KernelSet lockstep_kernel_set_##name;
LOCKSTEP_KERNEL_SETS
#undef LOCKSTEP_SET

namespace lockstep {

namespace {

constexpr const KernelSet* kSets[] = {
#define LOCKSTEP_SET(name) &lockstep_kernel_set_##name,
    LOCKSTEP_KERNEL_SETS
#undef LOCKSTEP_SET
};

std::string names_of(std::span<const KernelSet* const> sets) {
  std::string names;
  for (const KernelSet* const set : sets) names += (names.empty() ? "" : ", ") + std::string(set->name);
  return names;
}

}  // namespace

std::span<const KernelSet* const> kernel_sets() {
  return kSets;
}

const KernelSet& choose_kernel_set(std::span<const KernelSet* const> sets, InstructionSet present,
                                   InstructionSet slow, const std::string& requested) {
  std::string missing;  // of the last set that is asked for
  const KernelSet* first = nullptr;
  for (const KernelSet* const set : sets) {
    if (!requested.empty() && requested != set->name) continue;
    missing = missing_instructions(set->instructions, present);
    if (!missing.empty()) continue;
    if (!requested.empty() || (set->instructions & slow) == 0) return *set;
    if (first == nullptr) first = set;
  }
  if (first != nullptr) return *first;
  if (!missing.empty()) fail(ErrorKind::kUsage, missing);
  fail(ErrorKind::kUsage, "LOCKSTEP_CPU_KERNELS: this build has no kernels called \"" + requested +
                              "\", it has: " + names_of(sets));
}

const KernelSet& kernel_set() {
  static const KernelSet& set = []() -> const KernelSet& {
    const char* const requested = std::getenv("LOCKSTEP_CPU_KERNELS");
    return choose_kernel_set(kSets, processor_instructions(), slow_instructions(),
                             requested == nullptr ? "" : requested);
  }();
  return set;
}

std::string kernel_sets_text() {
  const std::string chosen = kernel_set().name;
  return kernel_sets().size() == 1 ? chosen : "portable: " + chosen + ", of " + names_of(kSets);
}

Backend& cpu_backend() {
  static Backend& backend = kernel_set().kernels();
  return backend;
}

}  // namespace lockstep
