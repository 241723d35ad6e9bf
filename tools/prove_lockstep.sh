#!/usr/bin/env bash
# Shows the Lockstep guarantee: tools/prove_lockstep.sh [CONFIG]. Trains CONFIG (configs/digits_cnn.toml) with one worker; again
# with three, killed with SIGKILL somewhere in the middle, and resumed with two workers of two threads; compares the states.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
config=${1:-configs/digits_cnn.toml}
lockstep=build/release/bin/lockstep
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
often=(--set checkpoint.every=20)

echo "one worker, without interruption"
"$lockstep" train "$config" --output "$work/one" "${often[@]}" 2>"$work/one.log"

echo "three workers, to be killed"
launch/local.sh -n 3 "$config" --output "$work/three" "${often[@]}" 2>"$work/three.log" &
job=$!
until compgen -G "$work/three/step-*.h5" >/dev/null; do
  kill -0 "$job" 2>/dev/null || { cat "$work/three.log" >&2; exit 1; }
  sleep 0.1
done
sleep "0.$((RANDOM % 10))"
pkill -KILL -f -- "--output $work/three" || true
wait "$job" 2>/dev/null || true
newest=$(find "$work/three" -name 'step-*.h5' | sort | tail -n 1)
echo "killed; the newest checkpoint is $(basename "$newest")"

echo "two workers of two threads, from there to the end"
launch/local.sh -n 2 "$config" --output "$work/three" "${often[@]}" --resume --set device.threads=2 2>"$work/two.log"

one=$(find "$work/one" -name 'step-*.h5' | sort | tail -n 1)
two=$(find "$work/three" -name 'step-*.h5' | sort | tail -n 1)
echo "state digests: $("$lockstep" inspect --digest "$one") $("$lockstep" inspect --digest "$two")"
"$lockstep" diff "$one" "$two"
echo "bitwise the same"
