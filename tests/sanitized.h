// Whether a sanitizer is in this program, GCC's or clang's.
#pragma once

namespace lockstep::testing {

// Sanitizers reserve more addresses than a limit would leave.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCKSTEP_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LOCKSTEP_TEST_SANITIZED 1
#endif
#endif
#if defined(LOCKSTEP_TEST_SANITIZED)
inline constexpr bool kCanLimitMemory = false;
#else
inline constexpr bool kCanLimitMemory = true;
#endif

}  // namespace lockstep::testing
