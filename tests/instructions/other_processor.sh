#!/bin/sh
# On a processor that lacks instructions the command says which and ends with exit code 2, whatever it was asked for. The processor
# stays what it is: a copy of the library asks for every instruction there ever was. Usage: other_processor.sh COMMAND LIBRARY
set -eu

command=$1
library=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

copy=$work/$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\].*/\1/p')
cp "$library" "$copy"
# The instructions are the first 8 bytes of lockstep_kernel_set_*. Where these lie in the file: at their address, less that of
# their section, plus the section's place.
readelf -sW "$library" | awk '$8 ~ /^lockstep_kernel_set_/ { print $2, $7 }' | sort -u >"$work/sets"
[ -s "$work/sets" ]
while read -r address section; do
  start=$(readelf -SW "$library" | sed 's/^ *\[ *\([0-9]*\)\]/\1/' | awk -v section="$section" '$1 == section { print "0x" $4, "0x" $5 }')
  place=$((0x$address - ${start% *} + ${start#* }))
  printf '\377\377\377\377\377\377\377\377' | dd of="$copy" bs=1 seek="$place" conv=notrunc status=none
done <"$work/sets"

failures=0
for arguments in --version --help 'config --describe' 'train nothing.toml' ''; do
  status=0
  # shellcheck disable=SC2086
  LD_LIBRARY_PATH=$work "$command" $arguments >"$work/stdout" 2>"$work/stderr" || status=$?
  if [ "$status" -ne 2 ] || [ -s "$work/stdout" ] || [ "$(wc -l <"$work/stderr")" -ne 1 ] ||
    ! grep -q '^error: cpu: .*lacks: .*XOP.*-DLOCKSTEP_CPU_ARCH=native$' "$work/stderr"; then
    echo "lockstep $arguments: exit status $status: $(cat "$work/stdout" "$work/stderr")" >&2
    failures=1
  fi
done
exit "$failures"
