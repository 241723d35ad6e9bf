#!/usr/bin/env bash
# The register tiles of products and convolutions keep their sums in registers: sums_stay_in_registers.sh LIBRARY. One that lies on the
# stack is loaded and stored in every step of the inner loop: large products then take half as long again.
set -euo pipefail

objdump -d --no-show-raw-insn "$1" | awk '
  /^[0-9a-f]+ </ { name = $2; tile = name ~ /multiply_(tile|pixels|walk)I/; tiles += tile }
  tile && /vfn?m(add|sub)[0-9]+p|vdpbf16ps/ { sums++; if ($0 ~ /\(%r[bs]p/) { spilled[name]++ } }
  END {
    for (name in spilled) { print name " has sums on the stack in " spilled[name] " instructions"; failed = 1 }
    if (tiles == 0 || sums < 14 * tiles / 4) { print "found " tiles + 0 " tiles with " sums + 0 " products"; failed = 1 }
    exit failed
  }'
