#!/bin/sh
# Plants fused multiply-adds in small objects: tools/check_fusion must find each that is not allowed, and no other.
# Usage: planted_instructions.sh CHECK_FUSION COMPILER
set -eu

check=$1
compiler=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $(uname -m) in
  x86_64) processor=-mfma ;;
  aarch64) processor= ;;
  *) echo "machine code of $(uname -m) is not read" && exit 77 ;;
esac

# Objects as CMake places them.
folder=$work/kernels/cpu/CMakeFiles/kernels.dir
stand_ins=$work/tests/cuda_on_cpu/CMakeFiles/layers.dir/__/__/kernels/cuda
mkdir -p "$folder" "$stand_ins"
compile() { "$compiler" -O2 $processor "$@"; }
cat >"$work/sums.cpp" <<'SOURCE'
namespace planted {
double sum(double a, double b, double c) { return a * b + c; }
double difference(double a, double b, double c) { return a * b - c; }
double product(double a, double b) { return a * b; }
float single_sum(float a, float b, float c) { return a * b + c; }
}
SOURCE
compile -ffp-contract=off -c "$work/sums.cpp" -o "$folder/plain.cpp.o"
compile -ffp-contract=fast -c "$work/sums.cpp" -o "$folder/fused.cpp.o"
compile -ffp-contract=fast -c "$work/sums.cpp" -o "$stand_ins/fused.cu.o"

failures=0
# expect STATUS LIMITS FILE...: the check must end with STATUS.
expect() {
  expected=$1
  printf '%s\n' "$2" >"$work/allowed"
  shift 2
  status=0
  "$check" "$work/allowed" "$@" 2>"$work/report" || status=$?
  if [ "$status" -ne "$expected" ]; then
    echo "exit status $status, expected $expected, of $* with: $(cat "$work/allowed"): $(cat "$work/report")" >&2
    failures=1
  fi
}
# said PATTERN: the last report has a line that matches.
said() {
  if ! grep -qE "$1" "$work/report"; then
    echo "not said: $1, but: $(cat "$work/report")" >&2
    failures=1
  fi
}

expect 0 '# nothing' "$folder/plain.cpp.o"
expect 1 '# nothing' "$folder/plain.cpp.o" "$folder/fused.cpp.o"
said 'kernels/cpu/fused.cpp: [a-z0-9]+ where no fused multiply-add is asked for, in planted::sum\('
said 'kernels/cpu/fused.cpp: [a-z0-9]+ where no fused multiply-add is asked for, in planted::difference\('
said 'kernels/cpu/fused.cpp: [a-z0-9]+ where no fused multiply-add is asked for, in planted::single_sum\('
[ "$(wc -l <"$work/report")" -eq 3 ] || { echo "more than three lines: $(cat "$work/report")" >&2; failures=1; }
expect 1 'kernels/cpu/fused.cpp planted::(sum|single_sum)' "$folder/fused.cpp.o"
said 'in planted::difference\('
[ "$(wc -l <"$work/report")" -eq 1 ] || { echo "more than one line: $(cat "$work/report")" >&2; failures=1; }
expect 0 'kernels/cpu/fused.cpp planted::(sum|difference|single_sum)  # all' "$folder/fused.cpp.o"
expect 1 'kernels/cpu/fused.cpp planted:: single  # no doubles' "$folder/fused.cpp.o"
said 'in planted::sum\('
said 'in planted::difference\('
[ "$(wc -l <"$work/report")" -eq 2 ] || { echo "more than two lines: $(cat "$work/report")" >&2; failures=1; }
expect 1 'kernels/cuda/fused.cpp planted::' "$folder/fused.cpp.o"
expect 1 'cpu/used.cpp planted::' "$folder/fused.cpp.o"
expect 1 'kernels/cpu/fused.cpp planted::' "$stand_ins/fused.cu.o"
said '/kernels/cuda/fused.cu: '
expect 0 'kernels/cuda/fused.cu planted::' "$stand_ins/fused.cu.o"
expect 2 'kernels/cpu/fused.cpp' "$folder/fused.cpp.o"
expect 2 'kernels/cpu/fused.cpp planted:: double' "$folder/fused.cpp.o"
expect 2 '# nothing' "$folder/absent.cpp.o"
expect 2 '# nothing'
expect 0 'kernels/cpu/fused.cpp planted::' "$work/kernels/cpu/CMakeFiles/kernels.dir/./fused.cpp.o"
status=0
"$check" - "$folder/fused.cpp.o" || status=$?
[ "$status" -eq 0 ] || { echo "plain fused multiply-adds of a library: exit status $status" >&2; failures=1; }

# What alternates is nowhere allowed.
if [ "$processor" = -mfma ]; then
  for instruction in fmaddsub fmsubadd; do
    printf '#include <immintrin.h>\n__m128d pair(__m128d a, __m128d b, __m128d c) { return _mm_%s_pd(a, b, c); }\n' \
      "$instruction" >"$work/pair.cpp"
    compile -c "$work/pair.cpp" -o "$folder/pair.cpp.o"
    expect 1 'kernels/cpu/pair.cpp pair' "$folder/pair.cpp.o"
    said "kernels/cpu/pair.cpp: v$instruction[0-9]+pd, which no source asks for, in pair\\("
    status=0
    "$check" - "$folder/pair.cpp.o" 2>/dev/null || status=$?
    [ "$status" -eq 1 ] || { echo "$instruction in a library: exit status $status" >&2; failures=1; }
  done
fi
exit "$failures"
