#!/usr/bin/env bash
# First contact: installs what is missing, builds, trains a network on handwritten digits and a language model on a book,
# with two workers each, and shows the results. Needs no GPU; a second run has nothing to install or to build.
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

config=configs/king_james.toml
text=configs/data/king_james.txt.zst
output=runs/quickstart_text
say "Turning $text into tokens"
mkdir -p runs
build/release/bin/lockstep tokenize "$text" --tokenizer bytes --output runs/king_james.tokens.h5

say "Training $config, a transformer that reads it byte by byte, with 2 workers: within 2 minutes on 2 cores"
launch/local.sh -n 2 "$config" --output "$output" --overwrite

say "How well it foresees text that it has not seen"
# A byte is a character of this text. Without a model each takes 8 bits.
sed -nE 's/.*"step": *([0-9]+),.*"validation_bits_per_byte": *([0-9.eE+-]+).*/\1 \2/p' "$output/metrics.jsonl" |
  awk '{ printf "after %5d steps: %.3f bits a character\n", $1, $2; found = 1 } END { exit !found }' ||
  { echo "quickstart: $output/metrics.jsonl holds no evaluation of text" >&2; exit 1; }
checkpoint=$(find "$output" -name 'step-*.h5' | sort | tail -n 1)
echo "checkpoint:    $checkpoint"
echo "loss plot:     $output/loss.svg"

say "What it writes"
build/release/bin/lockstep generate --checkpoint "$checkpoint" --prompt "And it came to pass" --tokens 230 --temperature 0.8 --seed 1
echo "Next: build/release/bin/lockstep --help"
