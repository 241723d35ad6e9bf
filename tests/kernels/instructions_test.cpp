// What is said to processors that lack instructions of the kernels, and what this one is said to have.
#include "lockstep/kernels/instructions.h"

#include <gtest/gtest.h>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

TEST(Instructions, WhatIsMissingIsNamedWithWhatToDo) {
  const InstructionSet needed = instructions_named({"AVX2", "FMA", "AVX-512F", "BMI2"});
  const std::string message = missing_instructions(needed, instructions_named({"AVX2", "BMI2", "SSE4.2"}));
  EXPECT_EQ(message,
            "cpu: this build's kernels need instructions that this processor or its operating system lacks: "
            "FMA, AVX-512F; build "
            "it here for this processor: cmake --preset release -DLOCKSTEP_CPU_ARCH=native");
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(Instructions, NothingIsSaidWhereTheProcessorHasThemAll) {
  const InstructionSet needed = instructions_named({"AVX2", "FMA"});
  EXPECT_EQ(missing_instructions(needed, needed), "");
  EXPECT_EQ(missing_instructions(needed, needed | instructions_named({"AVX-512F"})), "");
  EXPECT_EQ(missing_instructions(0, 0), "");
}

TEST(Instructions, EveryNameIsABitOfItsOwn) {
  InstructionSet all = 0;
  int count = 0;
#define LOCKSTEP_NAME(name, macro, vector_bytes, leaf, subleaf, index, bit)                     \
  EXPECT_NE(missing_instructions(instructions_named({name}), 0).find(name), std::string::npos); \
  EXPECT_EQ(all& instructions_named({name}), 0u) << name;                                       \
  all |= instructions_named({name});                                                            \
  ++count;
  LOCKSTEP_INSTRUCTIONS(LOCKSTEP_NAME)
#undef LOCKSTEP_NAME
  EXPECT_EQ(all, (InstructionSet{1} << count) - 1);
  EXPECT_THROW(instructions_named({"AVX-1024"}), Error);
}

#if defined(__x86_64__)
TEST(Instructions, TheProcessorSaysWhatTheCompilersLibraryFindsOut) {
  const auto has = [](const char* name) {
    const InstructionSet bit = instructions_named({name});
    return (processor_instructions() & bit) == bit;
  };
  __builtin_cpu_init();
  EXPECT_EQ(has("SSE3"), __builtin_cpu_supports("sse3") != 0);
  EXPECT_EQ(has("SSSE3"), __builtin_cpu_supports("ssse3") != 0);
  EXPECT_EQ(has("SSE4.1"), __builtin_cpu_supports("sse4.1") != 0);
  EXPECT_EQ(has("SSE4.2"), __builtin_cpu_supports("sse4.2") != 0);
  EXPECT_EQ(has("POPCNT"), __builtin_cpu_supports("popcnt") != 0);
  EXPECT_EQ(has("AVX"), __builtin_cpu_supports("avx") != 0);
  EXPECT_EQ(has("AVX2"), __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(has("FMA"), __builtin_cpu_supports("fma") != 0);
  EXPECT_EQ(has("BMI"), __builtin_cpu_supports("bmi") != 0);
  EXPECT_EQ(has("BMI2"), __builtin_cpu_supports("bmi2") != 0);
  EXPECT_EQ(has("SSE4A"), __builtin_cpu_supports("sse4a") != 0);
  EXPECT_EQ(has("XOP"), __builtin_cpu_supports("xop") != 0);
  EXPECT_EQ(has("FMA4"), __builtin_cpu_supports("fma4") != 0);
  EXPECT_EQ(has("GFNI"), __builtin_cpu_supports("gfni") != 0);
  EXPECT_EQ(has("VPCLMULQDQ"), __builtin_cpu_supports("vpclmulqdq") != 0);
  EXPECT_EQ(has("AVX-512F"), __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(has("AVX-512DQ"), __builtin_cpu_supports("avx512dq") != 0);
  EXPECT_EQ(has("AVX-512IFMA"), __builtin_cpu_supports("avx512ifma") != 0);
  EXPECT_EQ(has("AVX-512CD"), __builtin_cpu_supports("avx512cd") != 0);
  EXPECT_EQ(has("AVX-512BW"), __builtin_cpu_supports("avx512bw") != 0);
  EXPECT_EQ(has("AVX-512VL"), __builtin_cpu_supports("avx512vl") != 0);
  EXPECT_EQ(has("AVX-512VBMI"), __builtin_cpu_supports("avx512vbmi") != 0);
  EXPECT_EQ(has("AVX-512VBMI2"), __builtin_cpu_supports("avx512vbmi2") != 0);
  EXPECT_EQ(has("AVX-512VNNI"), __builtin_cpu_supports("avx512vnni") != 0);
  EXPECT_EQ(has("AVX-512BITALG"), __builtin_cpu_supports("avx512bitalg") != 0);
  EXPECT_EQ(has("AVX-512VPOPCNTDQ"), __builtin_cpu_supports("avx512vpopcntdq") != 0);
  EXPECT_EQ(has("AVX-512VP2INTERSECT"), __builtin_cpu_supports("avx512vp2intersect") != 0);
  EXPECT_EQ(has("AVX-512BF16"), __builtin_cpu_supports("avx512bf16") != 0);
}
#endif

}  // namespace
}  // namespace lockstep
