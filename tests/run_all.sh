#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test that this machine can run: all tests of the release build; the unit
# tests under the address and undefined-behaviour sanitizers, they and what they link compiled by clang++ where it is there, so
# that a second compiler sees them; those of the folders in which threads meet under the thread sanitizer. Exit 0 when all passed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

summary=()
failures=0
# part NAME COMMAND...: runs a part, goes on after a failure, and remembers the result.
part() {
  local name=$1 begin=$SECONDS verdict=passed
  shift
  printf '\n== %s\n' "$name"
  "$@" || verdict="FAILED (exit code $?)"
  [ "$verdict" = passed ] || failures=$((failures + 1))
  summary+=("$(printf '%-42s %-24s %5d s' "$name" "$verdict" $((SECONDS - begin)))")
}

# left_out NAME REASON: says so in the summary.
left_out() { summary+=("$(printf '%-42s not run: %s' "$1" "$2")"); }

# run_tests PRESET [CTEST OPTION...]: two at a time, since several tests start workers of their own; no test may hang.
run_tests() {
  local preset=$1
  shift
  ctest --test-dir "build/$preset" --parallel 2 --timeout 300 --output-on-failure --no-tests=error "$@"
}

# Over the stand-ins of tests/cuda_on_cpu; every tensor a buffer of its own, so that the sanitizer knows where it ends.
gpu_kernels_under_sanitizers() {
  LOCKSTEP_ALLOCATOR=poison run_tests "$asan" --tests-regex '^cuda_on_cpu/(tensor|kernels|ops|nn)_seed_0$'
}

# Tests ask for more memory than there is, and expect an answer.
export ASAN_OPTIONS=allocator_may_return_null=1 TSAN_OPTIONS=allocator_may_return_null=1

# Nothing can be built or run without these two.
launch/install_dependencies.sh
part "release build" launch/build.sh release
if [ "$failures" -eq 0 ]; then
  part "tests" run_tests release
fi
asan=asan
if command -v clang++ >/dev/null; then
  asan=asan_clang
else
  left_out "build with clang++" "clang++ is not installed"
fi
part "sanitizer build (address, undefined)" launch/build.sh "$asan"
if [ -x "build/$asan/bin/lockstep" ]; then
  part "unit tests under sanitizers" run_tests "$asan" --label-regex '^unit$'
  part "GPU kernels under sanitizers" gpu_kernels_under_sanitizers
fi
# The thread pool and what it computes, the loader's and the checkpoint store's background threads, communicators of threads.
threaded=(core data checkpoint kernels parallel)
part "sanitizer build (thread)" launch/build.sh tsan "${threaded[@]/%/_test}"
if [ -x build/tsan/bin/parallel_test ]; then
  part "threaded tests under sanitizer" run_tests tsan --tests-regex "^($(IFS='|'; echo "${threaded[*]}"))/"
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
[ "$failures" -eq 0 ]
