#!/usr/bin/env bash
# Builds Lockstep: launch/build.sh [PRESET [TARGET...]]. PRESET is release (default), quick, asan, asan_clang or tsan; without a target
# everything is built. The result is build/PRESET, the command build/PRESET/bin/lockstep.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
preset=${1:-release}
[ "$#" -eq 0 ] || shift

for tool in cmake ninja c++; do
  if ! command -v "$tool" >/dev/null; then
    echo "build: $tool was not found; launch/install_dependencies.sh installs it" >&2
    exit 2
  fi
done
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The configuration's report matters only when it fails.
if ! cmake --preset "$preset" >"$log" 2>&1; then
  cat "$log" >&2
  exit 2
fi
targets=()
[ "$#" -eq 0 ] || targets=(--target "$@")
cmake --build "build/$preset" --parallel "$(nproc)" "${targets[@]}"
