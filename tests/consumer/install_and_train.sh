#!/usr/bin/env bash
# install_and_train.sh CMAKE BUILD PROJECT DATA: installs BUILD into an empty prefix, builds PROJECT against it, trains, evaluates.
set -euo pipefail
cmake=$1 build=$2 project=$3 data=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build" --prefix "$work/prefix" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$cmake" -S "$project" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release >>"$work/log" 2>&1 &&
  "$cmake" --build "$work/build" >>"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

sed "s|DATA|$data|" "$project/gated.toml" >"$work/gated.toml"
"$work/build/gated" train "$work/gated.toml" --output "$work/run"
accuracy=$("$work/build/gated" eval "$work/gated.toml" --checkpoint "$work/run/step-000000200.h5" |
  sed 's/.*"accuracy":\([0-9.]*\).*/\1/')
echo "accuracy of the consumer's model: $accuracy"
awk -v a="$accuracy" 'BEGIN { exit !(a > 0.9) }'

# The installed command works from its prefix, and does not know the consumer's model.
"$work/prefix/bin/lockstep" --version
code=0
"$work/prefix/bin/lockstep" train "$work/gated.toml" --output "$work/other" 2>"$work/error" || code=$?
cat "$work/error"
[ "$code" -eq 2 ] && grep -q gated "$work/error"
