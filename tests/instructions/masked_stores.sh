#!/usr/bin/env bash
# Nothing stores a part of a vector register under a mask: masked_stores.sh LIBRARY. Such an instruction (vextractf64x4 and its like)
# faults where the lanes that it leaves out lie on a page that is not there; other masked stores do not. GCC 12 makes them of loops over
# the lanes of a register that is wider than what is stored.
set -euo pipefail

objdump -d --no-show-raw-insn "$1" | awk '
  /^[0-9a-f]+ </ { name = $2 }
  /[ \t]vextract[fi][0-9]+x[0-9]+ .*\)\{%k/ { print name " " $0; failed = 1 }
  END { exit failed }'
