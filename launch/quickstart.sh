#!/usr/bin/env bash
# First contact: installs what is missing, builds, trains a network on handwritten digits with two workers, and shows the
# result. Needs no GPU; a second run has nothing to install or to build.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
say() { printf '\n== %s\n' "$1"; }

say "Installing what is missing"
launch/install_dependencies.sh

say "Building build/release/bin/lockstep"
launch/build.sh release lockstep_command

config=configs/digits_cnn.toml
output=runs/quickstart
say "Training $config with 2 workers"
launch/local.sh -n 2 "$config" --output "$output" --overwrite

say "Testing the trained network on images that it has not seen"
checkpoint=$(find "$output" -name 'step-*.h5' | sort | tail -n 1)
result=$(build/release/bin/lockstep eval "$config" --checkpoint "$checkpoint")
accuracy=$(sed -nE 's/.*"accuracy": *([0-9.eE+-]+).*/\1/p' <<<"$result")
if [ -z "$accuracy" ]; then
  echo "quickstart: the evaluation printed no accuracy: $result" >&2
  exit 1
fi
awk -v accuracy="$accuracy" 'BEGIN { printf "test accuracy: %.2f%%\n", 100 * accuracy }'
echo "checkpoint:    $checkpoint"
echo "metrics:       $output/metrics.jsonl"
echo "loss plot:     $output/loss.svg"
echo
echo "Next: build/release/bin/lockstep --help"
