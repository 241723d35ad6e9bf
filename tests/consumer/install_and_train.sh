#!/usr/bin/env bash
# install_and_train.sh CMAKE BUILD PROJECT DATA MPIEXEC: installs BUILD into an empty prefix, builds PROJECT against it, trains,
# evaluates. MPIEXEC: of the MPI that the build has, or empty.
set -euo pipefail
cmake=$1 build=$2 project=$3 data=$4 mpiexec=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build" --prefix "$work/prefix" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$cmake" -S "$project" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release -DOWN_MPI="${mpiexec:+ON}" >>"$work/log" 2>&1 &&
  "$cmake" --build "$work/build" >>"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

# The headers: complete, none of HDF5, MPI or CUDA, and at peace with folders and files of the same names.
headers=$(cd "$work/prefix/include" && find lockstep -name '*.h' | LC_ALL=C sort)
if (cd "$work/prefix/include" && grep -nE '#include [<"](hdf5|H5|mpi|cuda|nccl|cudnn)' $headers); then exit 1; fi
# Whatever takes options has its header among them: a program can have what a configuration can. So have what reads a checkpoint,
# sets threads, and lets a model write.
for header in $(cd "$project/../../../src" && grep -lE '^(std::unique_ptr<.*> make_|LayerSpec )[a-z_]+\(const [A-Za-z]+Options' -- */*.h) \
  checkpoint/checkpoint.h core/thread_pool.h generate/generate.h text/tokenizer.h; do
  [ -f "$work/prefix/include/lockstep/$header" ] || { echo "$header is not installed"; exit 1; }
done
sed 's|.*|#include <&>|' <<<"$headers" >"$work/all.cpp"
for header in $headers; do
  mkdir -p "$work/mine/$(dirname "${header#lockstep/}")"
  echo '#error a header of the consumer' >"$work/mine/${header#lockstep/}"
done
"${CXX:-c++}" -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I "$work/mine" -I "$work/prefix/include" "$work/all.cpp"

sed "s|DATA|$data|" "$project/gated.toml" >"$work/gated.toml"
"$work/build/gated" train "$work/gated.toml" --output "$work/run"
accuracy=$("$work/build/gated" eval "$work/gated.toml" --checkpoint "$work/run/step-000000200.h5" |
  sed 's/.*"accuracy":\([0-9.]*\).*/\1/')
echo "accuracy of the consumer's model: $accuracy"
awk -v a="$accuracy" 'BEGIN { exit !(a > 0.9) }'

# A training loop of one's own: early stopping, with the best weights as the newest checkpoint.
"$work/build/own_loop" "$data" "$work/own" | tee "$work/own.txt"
awk 'END { exit !($3 > 0.9) }' "$work/own.txt"
"$work/prefix/bin/lockstep" inspect "$work/own/step-$(printf %09d "$(tail -n 1 "$work/own.txt" | cut -d" " -f1)").h5" >/dev/null

# A layer and a data source of the program's own: put together in C++, and by their names in a configuration.
digest() { "$work/prefix/bin/lockstep" inspect --digest "$1"; }
"$work/build/own_parts" "$work/parts" | tee "$work/parts.txt"
awk 'END { exit !($2 > 0.9) }' "$work/parts.txt"
"$work/build/own_parts" train "$project/own_parts.toml" --output "$work/named" >"$work/named.txt"
cmp "$work/parts.txt" "$work/named.txt"
[ "$(digest "$work/parts/step-000000120.h5")" = "$(digest "$work/named/step-000000120.h5")" ]
"$work/build/own_parts" eval "$project/own_parts.toml" --checkpoint "$work/named/step-000000120.h5" --set data.points=100
"$work/build/own_parts" predict "$project/own_parts.toml" --checkpoint "$work/named/step-000000120.h5" --data all \
  --output "$work/predictions.h5" 2>&1 | grep -q "predictions for 400 samples"
"$work/build/own_parts" config --describe | grep -A1 '^  points ' | grep -q 'disc: how many'
"$work/build/own_parts" config --describe model.layers.gated | grep -q 'gated: features'
for setting in 'data.points=0' 'model.layers[0].units=0'; do
  code=0
  "$work/build/own_parts" train "$project/own_parts.toml" --output "$work/refused" --set "$setting" 2>"$work/error" || code=$?
  cat "$work/error"
  [ "$code" -eq 2 ] && grep -qF -- "--set: ${setting%=0}: must be" "$work/error"
done

# A program with an MPI, signals and an output of its own keeps them.
if [ -n "$mpiexec" ]; then
  "$work/build/embedded" "$data" "$work/alone" >"$work/out" 2>"$work/error" || { cat "$work/out" "$work/error"; exit 1; }
  [ "$(cat "$work/out")" = "1 workers" ] && [ ! -s "$work/error" ]
  "$mpiexec" --oversubscribe -np 2 "$work/build/embedded" "$data" "$work/pair" >"$work/out" 2>"$work/error" ||
    { cat "$work/out" "$work/error"; exit 1; }
  [ "$(cat "$work/out")" = "2 workers" ] && [ ! -s "$work/error" ]
  last=$(basename "$(ls "$work"/pair/step-*.h5 | tail -n 1)")
  "$work/build/embedded" single | grep -q "MPI_Init_thread with MPI_THREAD_FUNNELED at least"
  [ "$(digest "$work/alone/$last")" = "$(digest "$work/pair/$last")" ]
fi

# Logistic regression from scratch takes the path that the command takes.
awk 'BEGIN {
  srand(7); print "a,b,c,y"
  for (i = 0; i < 200; ++i) {
    a = rand() - 0.5; b = rand() - 0.5; c = rand() - 0.5
    print a "," b "," c "," (2 * a - b + 0.3 * (rand() - 0.5) > 0 ? 1 : 0)
  }
}' >"$work/two.csv"
cat >"$work/two.toml" <<END
[data]
train = "$work/two.csv"
[model]
type = "logistic"
[train]
steps = 40
micro_batch_size = 64
log_every = 1
l2 = 0.01
[optimizer]
type = "gradient_descent"
learning_rate = 0.8
[precision]
compute = "fp64"
END
"$work/prefix/bin/lockstep" train "$work/two.toml" --output "$work/two"
sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$work/two/metrics.jsonl" >"$work/command.txt"
"$work/build/logistic_regression" "$work/two.csv" 40 0.8 0.01 >"$work/scratch.txt"
paste "$work/command.txt" "$work/scratch.txt" | awk '
  { d = $1 - $2; if (d < 0) d = -d; if (d > 1e-13) { print "step " NR ": " $1 " and " $2; bad = 1 } last = $2 }
  NR == 1 { first = $2 }
  END { exit !(NR == 40 && !bad && last < 0.75 * first) }'

# The installed command works from its prefix, and does not know the consumer's model.
"$work/prefix/bin/lockstep" --version
code=0
"$work/prefix/bin/lockstep" train "$work/gated.toml" --output "$work/other" 2>"$work/error" || code=$?
cat "$work/error"
[ "$code" -eq 2 ] && grep -q gated "$work/error"
