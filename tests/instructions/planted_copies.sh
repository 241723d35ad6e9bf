#!/bin/sh
# Links small libraries that break one rule of check_baseline.sh each: it must find which. Usage: planted_copies.sh CHECK COMPILER
set -eu

check=$1
compiler=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

cat >"$work/inline.h" <<'SOURCE'
__attribute__((noinline)) inline double sum(const double* x) { return x[0] * x[1] + x[2] * x[3]; }
SOURCE
printf '#include "inline.h"\ndouble kernel(const double* x) { return sum(x); }\n' >"$work/kernel.cpp"
printf '#include "inline.h"\ndouble other(const double* x) { return sum(x); }\n' >"$work/other.cpp"
printf 'double ready(double);\ndouble value = ready(1.0);\n' >"$work/starts.cpp"
for name in kernel starts other; do
  options=-mavx2
  [ "$name" = other ] && options=
  "$compiler" -O2 -fPIC $options -c "$work/$name.cpp" -o "$work/$name.o"
done
"$compiler" -O2 -fPIC -mavx2 -c "$work/other.cpp" -o "$work/other_avx2.o"

# expect STATUS PATTERN KERNEL OTHER ORDER: the library of the objects of ORDER must end with STATUS, with PATTERN in what is said.
expect() {
  "$compiler" -shared -o "$work/library.so" $5
  printf '%s\n' "$3" >"$work/kernels"
  printf '%s\n' "$4" >"$work/others"
  status=0
  "$check" "$work/library.so" "$work/kernels" "$work/others" 2>"$work/report" || status=$?
  if [ "$status" -ne "$1" ] || { [ -n "$2" ] && ! grep -qE "$2" "$work/report"; }; then
    echo "exit status $status, expected $1 and \"$2\": $(cat "$work/report")" >&2
    failures=1
  fi
}
expect 1 "library.so: the kernels' copy of sum" "$work/kernel.o" "$work/other.o" "$work/kernel.o $work/other.o"
expect 1 'other_avx2.o: instructions that not every processor has, in sum' "$work/kernel.o" "$work/other_avx2.o" \
  "$work/other_avx2.o $work/kernel.o"
expect 1 'starts.o: runs when the library is loaded' "$work/starts.o" "$work/other.o" "$work/other.o $work/starts.o"
expect 0 '' "$work/kernel.o" "$work/other.o" "$work/other.o $work/kernel.o"
exit "$failures"
