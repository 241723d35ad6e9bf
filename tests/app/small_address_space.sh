#!/bin/sh
# What needs no GPU runs without the GPU's libraries, which take more address space than some machines give a process: the library
# does not ask for them when it is loaded. Usage: small_address_space.sh COMMAND LIBRARY
set -eu

failures=0
needed=$(readelf -d "$2" | grep NEEDED)
if echo "$needed" | grep -E 'lib(cublas|cudnn|nccl|nvrtc|cuda)'; then
  echo "$2 cannot be loaded without these" >&2
  failures=1
fi
ulimit -v 400000 # KiB
for arguments in --version --help 'config --describe'; do
  # shellcheck disable=SC2086
  "$1" $arguments >/dev/null || failures=1
done
exit "$failures"
