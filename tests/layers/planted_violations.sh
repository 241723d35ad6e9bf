#!/bin/sh
# Plants one forbidden include after the other in a copy of the sources: tools/check_layers must name each.
set -eu

root=$1
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R "$root/src" "$root/kernels" "$copy"
check() { "$root/tools/check_layers" "$copy"; }

if ! check; then
  echo "the untouched copy must pass" >&2
  exit 1
fi

failures=0
# expect VERDICT FOLDER LINE: the check of a file in FOLDER that holds LINE must end with VERDICT (caught or clean).
expect() {
  printf '%s\n' "$3" >"$copy/$2/planted.cpp"
  verdict=clean
  report=$(check) || verdict=caught
  rm "$copy/$2/planted.cpp"
  if [ "$verdict" != "$1" ]; then
    echo "$2: $3: expected $1, was $verdict" >&2
    failures=1
  elif [ "$verdict" = caught ] && ! printf '%s' "$report" | grep -q "^$2/planted.cpp:1: "; then
    echo "$2: $3: the report does not name file and line: $report" >&2
    failures=1
  fi
}

expect caught src/core '#include "lockstep/tensor/tensor.h"'
expect caught src/tensor '#include "lockstep/autodiff/node.h"'
expect caught src/comm '#include "lockstep/tensor/tensor.h"'
expect caught src/optim '#include "lockstep/nn/module.h"'
expect caught src/data '#include "lockstep/tensor/tensor.h"'
expect caught src/checkpoint '#include "lockstep/optim/optimizer.h"'
expect caught src/train '#include "lockstep/app/run_main.h"'
expect caught kernels/cpu '#include "lockstep/tensor/tensor.h"'
expect caught src/core '  #  include <lockstep/tensor/tensor.h>  // angle brackets and blanks hide nothing'
expect caught src/ops '#include "lockstep/kernels/cpu/matmul.h"'
expect caught src/core '#include "../tensor/tensor.h"'
expect caught src/core '#include "error.h"'
expect caught src/train '#include <mpi.h>'
expect caught src/comm '#include <hdf5.h>'
expect caught src/checkpoint '#include "hdf5.h"'
expect caught src/parallel '#include <nccl.h>'
expect caught src/tensor '#include <cuda_runtime.h>'
expect caught kernels/cpu '#include <cublasLt.h>'
mkdir "$copy/src/unheard_of"
expect caught src/unheard_of '// a folder of no layer'
rmdir "$copy/src/unheard_of"

# A file of src that is too long, and kernels, which may be.
for folder in src/core kernels/cpu; do
  yes '// a line' | head -n 451 >"$copy/$folder/planted.cpp"
  report=$(check) && verdict=clean || verdict=caught
  rm "$copy/$folder/planted.cpp"
  case $folder:$verdict:$report in
    "src/core:caught:src/core/planted.cpp:451: "*|kernels/cpu:clean:*) ;;
    *) echo "$folder: a file of 451 lines: $verdict: $report" >&2; failures=1 ;;
  esac
done

expect clean src/comm '#include <mpi.h>'
expect clean src/hdf5 '#include <hdf5.h>'
expect clean src/nn '#include "lockstep/core/error.h"'
expect clean src/ops '#include "lockstep/kernels/backend.h"'
expect clean src/checkpoint '#include "lockstep/hdf5/file.h"'
expect clean src/parallel '#include "lockstep/comm/communicator.h"'
expect clean src/app '#include "lockstep/train/trainer.h"'
expect clean src/core '// #include "tensor/tensor.h"'

mkdir "$copy/nothing"
status=0
"$root/tools/check_layers" "$copy/nothing" >"$copy/output" 2>&1 || status=$?
if [ "$status" -ne 2 ]; then
  echo "a folder without sources must give exit code 2, gave $status" >&2
  failures=1
fi
exit "$failures"
