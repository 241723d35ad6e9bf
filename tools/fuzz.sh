#!/usr/bin/env bash
# Looks for files that the readers take wrongly: tools/fuzz.sh [TARGET [SECONDS]]. TARGET: a file of tests/fuzz without .cpp (all of them, one
# after the other); SECONDS (60) each. Builds with clang++ and the address sanitizer in build/asan_clang. What it finds is kept in
# build/fuzz/TARGET: found-* (an input that went wrong: the program with it as its argument repeats it) and corpus/ (inputs that reach
# something new, with which the next run begins). Exit code 1 when there is an input that goes wrong.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
case "${1:-}" in -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
seconds=${2:-60}
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: SECONDS must be a number: got '$seconds'" >&2; exit 2; }
targets=()
for source in tests/fuzz/*.cpp; do targets+=("$(basename "$source" .cpp)"); done
if [ -n "${1:-}" ]; then
  [ -e "tests/fuzz/$1.cpp" ] || { echo "fuzz.sh: '$1': no such target; there are ${targets[*]}" >&2; exit 2; }
  targets=("$1")
fi
launch/build.sh asan_clang "${targets[@]/#/fuzz_}"
failed=0
for target in "${targets[@]}"; do
  kept=build/fuzz/$target
  mkdir -p "$kept/corpus"
  echo "$target, $seconds s ..."
  if "build/asan_clang/bin/fuzz_$target" -max_total_time="$seconds" -keep_seed=1 -timeout=60 -rss_limit_mb=3000 -malloc_limit_mb=1024 \
    -artifact_prefix="$kept/found-" "$kept/corpus" "tests/fuzz/seeds/$target" >"$kept/log.txt" 2>&1; then
    tail -n 1 "$kept/log.txt"
  else
    grep -E 'wrong: |ERROR: |SUMMARY: |runtime error: |terminate called|Assertion|Test unit written' "$kept/log.txt" || tail -n 20 "$kept/log.txt"
    failed=1
  fi
done
exit "$failed"
