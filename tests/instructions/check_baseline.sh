#!/bin/sh
# Nothing but the kernels has instructions that not every x86-64 processor has, and nothing of theirs runs unasked:
# check_baseline.sh LIBRARY KERNELS OTHERS; KERNELS, OTHERS: files that list the objects that LIBRARY was linked from.
#   - No object of OTHERS has such an instruction.
#   - Objects of KERNELS have no code that runs when the library is loaded.
#   - Of each inline function that objects of both hold, LIBRARY has a copy of OTHERS. (Local functions are called by the objects
#     that they came from alone.)
# Exit status: 0, or 1 with a line for each violation.
set -eu

library=$1
kernels=$2
others=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# newer_instructions FILE: addresses and names of functions with VEX or EVEX instructions, or others that a compiler may use instead of older ones. (tzcnt
# runs as bsf where there is none.)
newer_instructions() {
  objdump -d --no-show-raw-insn "$1" | awk '
    />:$/ { name = $2; sub(/^</, "", name); sub(/>:$/, "", name); name = $1 " " name }
    $2 ~ /^(v[a-z0-9]+|andn|bextr|bls(i|msk|r)|bzhi|lzcnt|movbe|mulx|pdep|pext|popcnt|rorx|s[ah][lr]x)$/ && $2 !~ /^ver[rw]$/ {
      print name
    }' | sort -u
}

while read -r object; do
  [ -n "$object" ] || continue
  newer_instructions "$object" >"$work/functions"
  while read -r _ name; do
    echo "$object: instructions that not every processor has, in $(c++filt "$name")" >&2
    failed=1
  done <"$work/functions"
  nm --defined-only "$object" | awk '$2 ~ /^[TWu]$/ { print $3 }'
done <"$others" >"$work/names"
sort -u "$work/names" >"$work/of_others"

while read -r object; do
  [ -n "$object" ] || continue
  if objdump -h "$object" | grep -qE '\.(init_array|ctors)'; then
    echo "$object: runs when the library is loaded" >&2
    failed=1
  fi
done <"$kernels"

newer_instructions "$library" >"$work/newer"
nm --defined-only "$library" | awk '$2 ~ /^[TWui]$/ { print $1 " " $3 }' | sort -u >"$work/global"
comm -12 "$work/newer" "$work/global" | cut -d ' ' -f 2 | sort -u >"$work/functions"
[ -s "$work/of_others" ] || { echo "$others: no functions" >&2; failed=1; }
[ -s "$kernels" ] || { echo "$kernels: no objects" >&2; failed=1; }
for name in $(comm -12 "$work/functions" "$work/of_others"); do
  echo "$library: the kernels' copy of $(c++filt "$name")" >&2
  failed=1
done
exit "$failed"
