#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test that this machine can run:  tests/run_all.sh [--quick | --minutes N]
#   - all tests of the release build;
#   - the unit tests under the address and undefined-behaviour sanitizers, they and what they link compiled by clang++ where it is
#     there, so that a second compiler sees them; a part of the GPU half too, over the stand-ins (its kernels under the first alone);
#     where clang++ has libFuzzer, a bounded run of the programs of tests/fuzz;
#   - the tests of the folders in which threads meet under the thread sanitizer.
# --quick: the unit tests of a release build without a GPU half, in a few minutes.
# --minutes N: what would begin later than that is left out, and said so: for slow machines with a limit on the time.
# A line a part; what it printed is in build/logs, and on the terminal when it failed. Exit 0 when all passed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
quick=false minutes=1000000
case "${1:-}" in
  '') ;;
  --quick) quick=true ;;
  --minutes)
    minutes=${2:-}
    [[ "$minutes" =~ ^[1-9][0-9]{0,5}$ ]] || { echo "run_all.sh: --minutes needs a number of minutes, at least 1" >&2; exit 2; }
    shift
    ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "run_all.sh: unknown argument '$1'; there are --quick and --minutes N" >&2; exit 2 ;;
esac
[ "$#" -le 1 ] || { echo "run_all.sh: '$2': one argument too many" >&2; exit 2; }
mkdir -p build/logs

# progress LOG: shows where a part is, until killed: on a terminal the log's newest line, elsewhere that line once a minute.
progress() {
  local log=$1 second=0 line
  while sleep 1 && kill -0 $$ 2>/dev/null; do
    second=$((second + 1))
    line=$(tail -n 1 "$log" | tr -d '\r' | sed -E 's/ {2,}/ /g; s/^ //; s/ \.{3,} */ /')
    if [ -t 1 ]; then
      printf '\r\033[K  %s' "${line:0:100}"
    elif [ $((second % 60)) -eq 0 ]; then
      printf '  %4d s  %s\n' "$second" "${line:0:100}"
    fi
  done
}

# What of a log says why a part failed: all but the compiler's and CTest's lines about what went well.
reasons() {
  grep -vE '^\[[0-9]+/[0-9]+\] |^ +Start +[0-9]+: |^ *[0-9]+/[0-9]+ Test +#.* Passed +|^ninja: (Entering|no work)|^-- ' "$1" |
    tail -n 400 || tail -n 20 "$1"  # nothing but such lines
}

summary=()
failures=0
declare -A under_way=()  # process groups
log_of() { echo "build/logs/$(tr -cs '[:alnum:]\n' _ <<<"$1").txt"; }
# part NAME COMMAND...: runs a part, goes on after a failure, and remembers the result.
part() {
  local name=$1 begin=$SECONDS verdict=passed status=0 log watcher
  if [ $((SECONDS / 60)) -ge "$minutes" ]; then
    left_out "$name" "$minutes minutes were over"
    return
  fi
  log=$(log_of "$name")
  shift
  printf '%s ...\n' "$name"
  [ -n "${under_way[$name]:-}" ] || : >"$log"
  progress "$log" &
  watcher=$!
  "$@" >>"$log" 2>&1 || status=$?  # in the foreground: what is started in the background ignores Ctrl-C, tests of it included
  { kill "$watcher" && wait "$watcher"; } 2>/dev/null || true
  [ ! -t 1 ] || printf '\r\033[K'
  if [ "$status" -ne 0 ]; then
    verdict="FAILED (exit code $status)"
    failures=$((failures + 1))
    reasons "$log"
  fi
  summary+=("$(printf '%-42s %-24s %5d s' "$name" "$verdict" $((SECONDS - begin)))")
  printf '%s\n' "${summary[-1]}"
}

# ahead NAME COMMAND...: begins a part in the time that other parts leave the processor idle, as tests do that wait for something;
# `part NAME wait_for NAME` goes on with it.
ahead() {
  local name=$1
  shift
  # A session of its own counts as a whole where the system groups processes by sessions. Its group is ended with this script.
  # shellcheck disable=SC2016  # for the inner shell
  setsid bash -c '{ echo 19 >/proc/self/autogroup; } 2>/dev/null || true
    exec nice -n 19 "$@"' ahead "$@" >"$(log_of "$name")" 2>&1 &
  under_way[$name]=$!
}
wait_for() {
  local status=0
  wait "${under_way[$1]}" || status=$?
  unset "under_way[$1]"
  return "$status"
}
# No EXIT trap: a child that is ended before it has left its parent's traps behind, as the progress of a part that takes no time is,
# runs that of bash 5.2 too.
end_what_is_under_way() {
  for job in "${under_way[@]}"; do kill -- -"$job" || kill "$job"; done 2>/dev/null || true
}
trap 'end_what_is_under_way; exit 130' INT
trap 'end_what_is_under_way; exit 143' TERM HUP

# left_out NAME REASON: says so in the summary.
left_out() { summary+=("$(printf '%-42s not run: %s' "$1" "$2")"); }

# run_tests PRESET [CTEST OPTION...]: three at a time, since several tests start workers of their own, and others wait most of the time;
# no test may hang.
run_tests() {
  local preset=$1
  shift
  ctest --test-dir "build/$preset" --parallel 3 --timeout 300 --output-on-failure --no-tests=error "$@"
}

finish() {
  end_what_is_under_way
  printf '\n== summary (%d min)\n' $(((SECONDS + 59) / 60))
  printf '%s\n' "${summary[@]}"
  exit $((failures > 0))
}

# Tests ask for more memory than there is, and expect an answer.
export ASAN_OPTIONS=allocator_may_return_null=1 TSAN_OPTIONS=allocator_may_return_null=1

# Nothing can be built or run without these two.
launch/install_dependencies.sh
if $quick; then
  part "release build" launch/build.sh quick lockstep_command unit_tests
  [ "$failures" -gt 0 ] || part "unit tests" run_tests quick --label-regex '^unit$' --exclude-regex '^(cuda_on_cpu|fusion)/'
  finish
fi
# Where nothing could run it, the GPU half is tested over the stand-ins alone: nvcc takes as long as all the rest of the build.
# CUDAARCHS=90-real has it compiled, and what its kernels take of registers checked.
cuda=AUTO
if [ ! -e /dev/nvidiactl ] && [ -z "${CUDAARCHS:-}" ]; then
  cuda=OFF
  left_out "GPU code by nvcc" "no GPU here, and no CUDAARCHS"
fi
cmake --preset release -DLOCKSTEP_CUDA=$cuda >build/logs/configuration.txt 2>&1 || { cat build/logs/configuration.txt; exit 2; }
launch/install_dependencies.sh clang-format-14 || left_out "format of the sources" "clang-format 14 could not be installed"
part "release build" launch/build.sh release
asan=asan
if command -v clang++ >/dev/null; then
  asan=asan_clang
else
  left_out "build with clang++" "clang++ is not installed"
fi
# The thread pool and what it computes, the loader's and the checkpoint store's background threads, communicators of threads.
threaded=(core data checkpoint kernels parallel)
ahead "build under sanitizers" launch/build.sh "$asan"
# One after the other, so that the tests of the first need not wait for the second.
# shellcheck disable=SC2016  # for the inner shell
ahead "build under thread sanitizer" bash -c 'while kill -0 "$0" 2>/dev/null; do sleep 1; done
  exec launch/build.sh tsan "$@"' "${under_way["build under sanitizers"]}" "${threaded[@]/%/_test}"
if [ "$failures" -eq 0 ]; then
  part "tests" run_tests release
fi
part "build under sanitizers" wait_for "build under sanitizers"
if [ -x "build/$asan/bin/lockstep" ]; then
  [ -x "build/$asan/bin/fuzz_csv" ] || left_out "readers of random files" "needs clang++ with libFuzzer"
  part "tests under sanitizers" run_tests "$asan" --label-regex '^(unit|fuzz|sanitizers)$'
fi
part "build under thread sanitizer" wait_for "build under thread sanitizer"
if [ -x build/tsan/bin/parallel_test ]; then
  part "threaded tests under sanitizer" run_tests tsan --tests-regex "^($(IFS='|'; echo "${threaded[*]}"))/"
fi
finish
