#!/bin/sh
# Sets of kernels that lie side by side in one library keep to themselves: check_sets.sh OTHERS SET...
# SET: an object of all kernels of one set of instructions, NAME.o; OTHERS: a file that lists the other objects of the library.
#   - A set's object defines one name, lockstep_kernel_set_NAME: nothing outside can refer to anything else in it.
#   - It has no section groups, which a linker would drop for those of another object.
#   - It has the instructions of its set and none of a more demanding one.
#   - It has no variables that objects of OTHERS have under the same name, of which there would be two.
# Exit status: 0, or 1 with a line for each violation.
set -eu

others=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
complain() {
  echo "$1" >&2
  failed=1
}

# variables FILE: names of what can be written to.
variables() {
  objdump -t "$1" | awk -F '\t' 'NF == 2 {
    count = split($1, left, " ")
    split($2, right, " ")
    if (left[count] ~ /^\.(bss|data|tbss|tdata)/ && left[count] !~ /^\.data\.rel\.ro/) print right[2] == ".hidden" ? right[3] : right[2]
  }' | grep -vE '^(\.|DW\.ref\.)' | sort -u || true  # without what exceptions need once a file
}

# evex FILE: functions with EVEX instructions: byte 62, behind prefixes.
evex() {
  objdump -dw "$1" | awk -F '\t' '
    />:$/ { name = $0; sub(/^.*</, "", name); sub(/>:$/, "", name) }
    $2 ~ /^((26|2e|36|3e|64|65|67) )*62 / { print name }' | sort -u
}
# bf16 FILE: functions with instructions of AVX512-BF16.
bf16() {
  objdump -d --no-show-raw-insn "$1" | awk '
    />:$/ { name = $2; sub(/^</, "", name); sub(/>:$/, "", name) }
    $2 ~ /^(vdpbf16ps|vcvtne2?ps2bf16)/ { print name }' | sort -u
}
# expect_none FILE WHAT, expect_some FILE WHAT: of the functions in $work/functions.
expect_none() {
  while read -r name; do complain "$1: $2, in $(c++filt "$name")"; done <"$work/functions"
}
expect_some() {
  [ -s "$work/functions" ] || complain "$1: no $2"
}

while read -r object; do
  [ -z "$object" ] || variables "$object"
done <"$others" | sort -u >"$work/of_others"

for object in "$@"; do
  name=$(basename "$object" .o)
  defined=$(nm -g --defined-only "$object" | awk '{ print $NF }' | sort)
  [ "$defined" = "lockstep_kernel_set_$name" ] || complain "$object: defines $(printf '%s' "$defined" | tr '\n' ' ')"
  if readelf -gW "$object" | grep -q 'group section'; then complain "$object: has section groups"; fi
  evex "$object" >"$work/functions"
  case $name in
    avx2) expect_none "$object" 'instructions of AVX-512' ;;
    avx512*) expect_some "$object" 'instructions of AVX-512' ;;
    *) complain "$object: what may be in this set?" ;;
  esac
  bf16 "$object" >"$work/functions"
  case $name in
    avx512_bf16) expect_some "$object" 'instructions of AVX512-BF16' ;;
    *) expect_none "$object" 'instructions of AVX512-BF16' ;;
  esac
  variables "$object" >"$work/variables"
  for variable in $(comm -12 "$work/variables" "$work/of_others"); do
    complain "$object: a variable of its own, $(c++filt "$variable")"
  done
done
exit "$failed"
