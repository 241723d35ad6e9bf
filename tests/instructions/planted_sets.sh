#!/bin/sh
# Builds small sets of kernels as cmake/kernel_sets.cmake does, and some that break one rule of check_sets.sh each, which it must
# find. Usage: planted_sets.sh CHECK_SETS CHECK_BASELINE COMPILER LINKER OBJCOPY; exit status 77 where the linker cannot do it.
set -eu

check=$1
check_baseline=$2
compiler=$3
linker=$4
objcopy=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
if ! "$linker" --help | grep -q -e --force-group-allocation; then
  echo "$linker does not know --force-group-allocation" && exit 77
fi

cat >"$work/inline.h" <<'SOURCE'
__attribute__((noinline)) inline double sum(const double* x) {
  double y = 0.0;
  for (int i = 0; i < 1024; ++i) y += x[i] * x[i + 1];
  return y;
}
template <class T>
T& counter() {
  static T count = 0;
  return count;
}
SOURCE
cat >"$work/kernel.cpp" <<'SOURCE'
#include "inline.h"
static double kernel(const double* x, double* y) {
  for (int i = 0; i < 1024; ++i) y[i] = 2.0 * x[i];
  return sum(x);
}
typedef double (*Kernel)(const double*, double*);
extern "C" const Kernel KERNEL_SET;
const Kernel KERNEL_SET = &kernel;
SOURCE
cat >"$work/bf16.cpp" <<'SOURCE'
#include <immintrin.h>
extern "C" __m512 product(__m512 x, __m512i y) { return _mm512_dpbf16_ps(x, (__m512bh)y, (__m512bh)y); }
SOURCE
printf '#include "inline.h"\nint count() { return ++counter<int>(); }\n' >"$work/counts.cpp"
printf '#include "inline.h"\ndouble other(const double* x) { return sum(x) + ++counter<int>(); }\n' >"$work/other.cpp"
unique=
if printf 'int x;\n' | "$compiler" -fno-gnu-unique -x c++ -c - -o "$work/x.o" 2>/dev/null; then unique=-fno-gnu-unique; fi
# shellcheck disable=SC2086
compile() { "$compiler" -O3 -fPIC $unique "$@"; }
compile -c "$work/other.cpp" -o "$work/other.o"
printf '%s\n' "$work/other.o" >"$work/others"

# join FOLDER SET OPTIONS [SOURCE...]: FOLDER/SET.o out of the kernel and further sources.
join() {
  folder=$work/$1 name=$2 options=$3
  shift 3
  mkdir -p "$folder"
  objects=
  for source in kernel "$@"; do
    # shellcheck disable=SC2086
    compile $options -DKERNEL_SET="lockstep_kernel_set_$name" -c "$work/$source.cpp" -o "$folder/$name.$source.part"
    objects="$objects $folder/$name.$source.part"
  done
  # shellcheck disable=SC2086
  "$linker" -r $groups -o "$folder/$name.o" $objects
  "$objcopy" --keep-global-symbol="lockstep_kernel_set_$name" "$folder/$name.o"
}
# expect STATUS PATTERN SET...: the check must end with STATUS, with PATTERN in what is said.
expect() {
  expected=$1 pattern=$2
  shift 2
  status=0
  "$check" "$work/others" "$@" 2>"$work/report" || status=$?
  if [ "$status" -ne "$expected" ] || { [ -n "$pattern" ] && ! grep -qE "$pattern" "$work/report"; } ||
    { [ "$expected" -eq 0 ] && [ -s "$work/report" ]; }; then
    echo "$*: exit status $status, expected $expected and \"$pattern\": $(cat "$work/report")" >&2
    failures=1
  fi
}

groups=--force-group-allocation
wide='-march=x86-64-v4 -mprefer-vector-width=512'
join right avx2 -march=x86-64-v3
join right avx512 "$wide"
join right avx512_bf16 "$wide -mavx512bf16" bf16
expect 0 '' "$work/right/avx2.o" "$work/right/avx512.o" "$work/right/avx512_bf16.o"

# They may come first in a library: of `sum`, which all objects have, everybody but the sets calls the other one's copy.
"$compiler" -shared -o "$work/library.so" "$work/right/avx512.o" "$work/right/avx2.o" "$work/other.o"
printf '%s\n' "$work/right/avx512.o" "$work/right/avx2.o" >"$work/kernels"
"$check_baseline" "$work/library.so" "$work/kernels" "$work/others" || failures=1

join wrong avx2 "$wide"
expect 1 'wrong/avx2.o: instructions of AVX-512, in ' "$work/wrong/avx2.o"
join wrong avx512 "$wide -mavx512bf16" bf16
expect 1 'wrong/avx512.o: instructions of AVX512-BF16, in product' "$work/wrong/avx512.o"
join plain avx512 -march=x86-64-v3
expect 1 'plain/avx512.o: no instructions of AVX-512' "$work/plain/avx512.o"
join counting avx2 -march=x86-64-v3 counts
expect 1 'counting/avx2.o: a variable of its own, counter<int>\(\)::count' "$work/counting/avx2.o"
if [ -n "$unique" ]; then
  unique=
  join unique avx2 -march=x86-64-v3 counts
  expect 1 'unique/avx2.o: defines .*counterIi' "$work/unique/avx2.o"
  unique=-fno-gnu-unique
fi
"$linker" -r --force-group-allocation -o "$work/wrong/avx2.o" "$work/right/avx2.kernel.part"
expect 1 'wrong/avx2.o: defines .*_Z3sumPKd' "$work/wrong/avx2.o"
groups=
join grouped avx2 -march=x86-64-v3
expect 1 'grouped/avx2.o: has section groups' "$work/grouped/avx2.o"
exit "$failures"
