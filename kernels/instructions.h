// Sets of instructions, and whether this processor has them. Compiled for every processor of the
// architecture, so that it can speak on all of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// The extensions of x86-64 that compilers use on their own. each(name, macro that compilers define where they
// may use it, vector registers that the operating system has to save (0: none, 32 or 64 bytes wide), and
// where the processor says that it has it: leaf and subleaf of CPUID, register (0 to 3: EAX to EDX), bit):
// Intel, Software Developer's Manual, CPUID; AMD, Architecture Programmer's Manual 3, appendix E.
#define LOCKSTEP_INSTRUCTIONS(each)                                                                          \
  each("SSE3", __SSE3__, 0, 1, 0, 2, 0) each("SSSE3", __SSSE3__, 0, 1, 0, 2, 9)                              \
      each("SSE4.1", __SSE4_1__, 0, 1, 0, 2, 19) each("SSE4.2", __SSE4_2__, 0, 1, 0, 2, 20)                  \
          each("MOVBE", __MOVBE__, 0, 1, 0, 2, 22) each("POPCNT", __POPCNT__, 0, 1, 0, 2, 23) each(          \
              "AVX", __AVX__, 32, 1, 0, 2, 28) each("F16C", __F16C__, 32, 1, 0, 2, 29)                       \
              each("FMA", __FMA__, 32, 1, 0, 2, 12) each("LZCNT", __LZCNT__, 0, 0x80000001, 0, 2, 5) each(   \
                  "SSE4A", __SSE4A__, 0, 0x80000001, 0, 2, 6) each("XOP", __XOP__, 32, 0x80000001, 0, 2, 11) \
                  each("FMA4", __FMA4__, 32, 0x80000001, 0, 2, 16) each(                                     \
                      "TBM", __TBM__, 0, 0x80000001, 0, 2, 21) each("BMI", __BMI__, 0, 7, 0, 1, 3)           \
                      each("AVX2", __AVX2__, 32, 7, 0, 1, 5) each("BMI2", __BMI2__, 0, 7, 0, 1, 8) each(     \
                          "ADX", __ADX__, 0, 7, 0, 1, 19) each("AVX-512F", __AVX512F__, 64, 7, 0, 1, 16)     \
                          each("AVX-512DQ", __AVX512DQ__, 64, 7, 0, 1, 17) each(                             \
                              "AVX-512IFMA", __AVX512IFMA__, 64, 7, 0, 1,                                    \
                              21) each("AVX-512CD", __AVX512CD__, 64, 7, 0, 1, 28)                           \
                              each("AVX-512BW", __AVX512BW__, 64, 7, 0, 1,                                   \
                                   30) each("AVX-512VL", __AVX512VL__, 64, 7, 0, 1,                          \
                                            31) each("AVX-512VBMI", __AVX512VBMI__, 64, 7, 0, 2, 1)          \
                                  each("AVX-512VBMI2", __AVX512VBMI2__, 64, 7, 0, 2,                         \
                                       6) each("GFNI", __GFNI__, 0, 7, 0, 2, 8)                              \
                                      each("VAES", __VAES__, 32, 7, 0, 2,                                    \
                                           9) each("VPCLMULQDQ", __VPCLMULQDQ__, 32, 7, 0, 2, 10)            \
                                          each("AVX-512VNNI", __AVX512VNNI__, 64, 7, 0, 2, 11)               \
                                              each("AVX-512BITALG", __AVX512BITALG__, 64, 7, 0, 2, 12) each( \
                                                  "AVX-512VPOPCNTDQ", __AVX512VPOPCNTDQ__, 64, 7, 0, 2, 14)  \
                                                  each("AVX-512VP2INTERSECT", __AVX512VP2INTERSECT__, 64, 7, \
                                                       0, 3, 8)                                              \
                                                      each("AVX-512FP16", __AVX512FP16__, 64, 7, 0, 3, 23)   \
                                                          each("AVX-VNNI", __AVXVNNI__, 32, 7, 1, 0, 4)      \
                                                              each("AVX-512BF16", __AVX512BF16__, 64, 7, 1,  \
                                                                   0, 5)

namespace lockstep {

// Bit i stands for line i of LOCKSTEP_INSTRUCTIONS.
using InstructionSet = uint64_t;

// What the processor has and the operating system allows.
InstructionSet processor_instructions();

// What of them takes longer than doing without: AVX-512BF16 on Intel's processors from Sapphire Rapids on,
// made to multiply bf16 with AMX. (Emerald Rapids, one core: 96 GFLOP/s by VDPBF16PS, 200 by fused
// multiply-adds in fp32.)
InstructionSet slow_instructions();

// The set of these names; Error (kInternal) for one that is not in the list.
InstructionSet instructions_named(const std::vector<std::string>& names);

// Empty where `present` holds all of `needed`; else the message that names the ones it lacks and says what to
// do.
std::string missing_instructions(InstructionSet needed, InstructionSet present);

}  // namespace lockstep
