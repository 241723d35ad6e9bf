#!/usr/bin/env bash
# All checks and benchmarks that need a GPU, in one call under nine minutes: ./run_gpu_checks.sh [RESULTS]   (./results)
# Prints one table; the log of each check is in RESULTS. RESULTS/table.md has it under a line with commit, date, GPU and driver, and
# behind it the tables of speed: what to keep of a run, as tools/bench/results/DATE-GPU.md. Exit status: 0 when no check failed, 1 when one did, 2 without a GPU.
# LOCKSTEP_CHECKS_WITHOUT_GPU=1 goes on without one: for trying this script on stand-ins for the CUDA libraries.
# LOCKSTEP_CHECK_SECONDS: the limit of the whole call (520). Checks that no time is left for are named as not run.
# LOCKSTEP_CHECKS: a regular expression; only checks whose whole name matches are run ("alone" makes what others compare with).
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"
results=$(realpath -m "${1:-results}")
mkdir -p "$results"
rm -f "$results"/*.row "$results"/*.log
limit=${LOCKSTEP_CHECK_SECONDS:-520}
begin=$SECONDS
names=()
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 GTEST_COLOR=no GTEST_BRIEF=1
bin=$here/bin
python=${LOCKSTEP_PYTHON:-python3}
# CUDA's libraries may lie among Python's packages alone; compute-sanitizer beside the toolkit.
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
for folder in "$packages"/nvidia/*/lib; do
  [[ ! -d $folder ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
PATH=$PATH:/usr/local/cuda/bin

# check NAME SECONDS COMMAND...: passes when the command does; the last line of its log is what the table shows.
check() {
  local name=$1 seconds=$2 left=$((limit - SECONDS + begin)) start=$SECONDS status verdict
  shift 2
  if ((left < 5)); then
    echo "not run|-|no time left" >"$results/$name.row"
    return
  fi
  timeout --kill-after=5 "$((seconds < left ? seconds : left))" "$@" >"$results/$name.log" 2>&1
  status=$?
  case $status in
    0) verdict=ok ;;
    77) verdict="not run" ;;
    124 | 137) verdict="TIME OUT" ;;
    *) verdict="FAILED ($status)" ;;
  esac
  echo "$verdict|$((SECONDS - start))|$(grep -v '^ *$' "$results/$name.log" | tail -n 1 | tr '|' '/' | cut -c1-90)" >"$results/$name.row"
  printf '%-28s %-12s %4d s\n' "$name" "$verdict" "$((SECONDS - start))" >&2
}

# unit_tests FOLDER SHARD SHARDS: every SHARDS-th case of a folder.
unit_tests() { LOCKSTEP_TEST_DEVICE=cuda GTEST_SHARD_INDEX=$2 GTEST_TOTAL_SHARDS=$3 "$bin/$1_test"; }

# train NAME WORKERS CONFIG OPTIONS...: one run into $results/NAME on the GPU.
train() {
  local name=$1 workers=$2 config=$3 launch=()
  shift 3
  rm -rf "${results:?}/$name"
  ((workers == 0)) || launch=("$bin/mpirun" --oversubscribe -np "$workers")
  "${launch[@]}" "$bin/lockstep" train "$config" --output "$results/$name" --device cuda "$@"
}
newest() { find "$results/$1" -name 'step-*.h5' 2>/dev/null | sort | tail -n 1; }
digest() { "$bin/lockstep" inspect --digest "$(newest "$1")"; }
same() {
  local first other
  first=$(digest "$1") || return 1
  for name in "${@:2}"; do
    other=$(digest "$name") || return 1
    echo "$name $other"
    [[ $other == "$first" ]] || { echo "$name ends in $other, $1 in $first"; return 1; }
  done
  echo "all $# runs end in $first"
}
accuracy_of() {  # NAME CONFIG AT_LEAST
  local line accuracy
  line=$("$bin/lockstep" eval "$2" --checkpoint "$(newest "$1")" --device cuda) || return 1
  accuracy=$(sed -n 's/.*"accuracy": *\([0-9.]*\).*/\1/p' <<<"$line")
  echo "accuracy ${accuracy:-missing}, at least $3 expected"
  awk -v a="${accuracy:-0}" -v b="$3" 'BEGIN {exit !(a >= b)}'
}
short=(--set train.epochs=2 --set checkpoint.every=22)

trained_and_accurate() { train "$1" 0 "$2" "${@:4}" && accuracy_of "$1" "$2" "$3"; }
alone() { train alone 0 configs/digits_cnn.toml "${short[@]}"; }
staged() {
  local workers=$1
  train "staged_$workers" "$workers" configs/digits_cnn.toml --set parallel.share_gpu=true "${short[@]}" && same alone "staged_$workers"
}
# The same, each worker with a share of the optimizer's state.
sharded() {
  train sharded 3 configs/digits_cnn.toml --set parallel.share_gpu=true --set parallel.shard_optimizer=true "${short[@]}" &&
    same alone sharded
}
# Three workers are killed once there is a checkpoint, one goes on: the state of digits_cnn, which nobody interrupted.
killed() {
  local workers=(--set parallel.share_gpu=true)
  rm -rf "${results:?}/killed"
  train killed 3 configs/digits_cnn.toml "${workers[@]}" &
  until [[ -n $(newest killed) ]]; do
    kill -0 $! || return 1
    sleep 0.05
  done
  pkill -KILL -f -- "--output $results/killed" || return 1
  if wait $!; then
    echo "the run was over before it was killed"
    return 1
  fi
  echo "killed after $(basename "$(newest killed)")"
  "$bin/lockstep" train configs/digits_cnn.toml "${workers[@]}" --output "$results/killed" --device cuda --resume && same digits_cnn killed
}
# Two ranks of NCCL on one GPU: each says that it is a host of its own, so that NCCL does not refuse.
two_of_nccl() {
  NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo NCCL_MAX_CTAS=2 "$bin/mpirun" --oversubscribe -np 2 sh -c \
    'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$@"' rank "$@"
}
train_by_nccl() {  # NAME CONFIG OPTIONS...
  rm -rf "${results:?}/$1"
  two_of_nccl "$bin/lockstep" train "${@:2}" --output "$results/$1" --device cuda --set parallel.share_gpu=true \
    --set parallel.gpu_transport=nccl
}
nccl_two() { train_by_nccl nccl_two configs/digits_cnn.toml "${short[@]}" && same alone nccl_two; }
nccl_two_recorded() {
  train_by_nccl nccl_two_recorded configs/digits_cnn.toml --set device.cuda_graph=true "${short[@]}" && same alone nccl_two_recorded
}
# One of the two stops answering: the other says so and ends the job.
nccl_stopped() {
  rm -rf "${results:?}/nccl_stopped"
  train_by_nccl nccl_stopped configs/digits_cnn.toml --set train.epochs=5000 --set checkpoint.every=22 \
    --set parallel.timeout=4 &
  local job=$! status
  until [[ -n $(newest nccl_stopped) ]]; do
    kill -0 "$job" || return 1
    sleep 0.05
  done
  kill -STOP "$(pgrep -n -f -- "libexec/lockstep train .*--output $results/nccl_stopped")" || return 1
  wait "$job"
  status=$?
  pkill -KILL -f -- "--output $results/nccl_stopped"
  grep -h "not finished after" "$results/nccl_stopped.log" | tail -n 1
  echo "exit code $status, 6 expected"
  ((status == 6))
}
# Collectives and the exchange of gradients, between buffers on the GPU: TRANSPORT WORKERS.
exchange() {
  if [[ $1 == nccl && $2 == 2 ]]; then
    two_of_nccl "$bin/distributed_workers" 2 nccl
  else
    "$bin/mpirun" --oversubscribe -np "$2" "$bin/distributed_workers" "$2" "$1"
  fi
}
# Plans belong to a run; a cache brings them to another one.
tuned() {
  rm -f "$results/plans"
  export LOCKSTEP_PLAN_CACHE=$results/plans
  train tuned_1 0 configs/digits_cnn.toml --set device.tune=true "${short[@]}" &&
    train tuned_2 2 configs/digits_cnn.toml --set device.tune=true --set parallel.share_gpu=true "${short[@]}" &&
    same tuned_1 tuned_2
}
# Steps that are recorded and replayed.
recorded() { train recorded 0 configs/digits_cnn.toml --set device.cuda_graph=true "${short[@]}" && same alone recorded; }
# resume NAME DEVICE: the run of `alone` once more from its first checkpoint.
resume() {
  rm -rf "${results:?}/$1"
  cp -r "$results/alone" "$results/$1" && rm -f "$results/$1/$(basename "$(newest alone)")" &&
    "$bin/lockstep" train configs/digits_cnn.toml "${short[@]}" --output "$results/$1" --device "$2" --resume
}
resumed() { resume resumed cuda && same alone resumed; }
moved_to_cpu() {
  resume moved cpu && "$bin/lockstep" eval configs/digits_cnn.toml --checkpoint "$(newest moved)" --device cuda
}
# sanitized TOOL SHARD SHARDS: every SHARDS-th case of what calls kernels one by one.
sanitized() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; return 77; }
  LOCKSTEP_TEST_DEVICE=cuda GTEST_SHARD_INDEX=$2 GTEST_TOTAL_SHARDS=$3 compute-sanitizer --tool "$1" --target-processes all --error-exitcode 9 \
    "$bin/kernels_test" --gtest_filter='*Cuda*'
}
bench() { "$bin/$1" "${@:2}"; }
# What a step takes, of the last line of a run's metrics: a wide MLP in bf16 on one worker, recorded, and on two that share the GPU.
wide=(configs/digits_mlp.toml --set model.hidden=[2048,2048,2048] --set train.micro_batches=2 --set train.micro_batch_size=512
  --set train.epochs=0 --set train.steps=400 --set train.evaluate_every=0 --set checkpoint.every=0 --set train.log_every=100
  --set precision.compute=bf16)
steps() {
  train step_alone 0 "${wide[@]}" && train step_graph 0 "${wide[@]}" --set device.cuda_graph=true &&
    train_by_nccl step_nccl_two "${wide[@]}" --set train.steps=60 --set train.log_every=20 || return 1
  local line
  echo "| wide MLP in bf16 | samples/s | sweeps, us | exposed communication, us | update, us | host, us |"
  echo "|---|---|---|---|---|---|"
  for name in step_alone step_graph step_nccl_two; do
    line=$(grep samples_per_second "$results/$name/metrics.jsonl" | tail -n 1)
    echo "| $name | $(for field in samples_per_second compute_seconds exposed_communication_seconds optimizer_seconds host_seconds; do
      sed -n "s/.*\"$field\": *\([^,}]*\).*/\1/p" <<<"$line"
    done | awk 'NR == 1 {printf "%.0f", $1} NR > 1 {printf " | %s", $1 == "null" ? "-" : sprintf("%.1f", 1e6 * $1)}') |"
  done
}
# Against PyTorch in eager mode, where the machine has it; the row that counts comes last.
pytorch() {
  command -v "$python" >/dev/null || { echo "$python is not installed"; return 77; }
  "$python" tools/compare_pytorch.py --device cuda --lockstep "$bin/lockstep" --python "$python" --repeats 2 --seconds 1 \
    --rows cnn wide-bf16 mlp
}
preload_pytorch() { "$python" -c 'import torch; torch.cuda.init(); print("PyTorch", torch.__version__)' || return 77; }
export -f unit_tests train newest digest same accuracy_of trained_and_accurate alone staged sharded killed two_of_nccl train_by_nccl nccl_two nccl_two_recorded nccl_stopped exchange tuned recorded resume resumed moved_to_cpu sanitized bench steps pytorch preload_pytorch
export results bin python
export short_text="${short[*]}" wide_text="${wide[*]}"
# run NAME SECONDS COMMAND...: by itself; start: beside what else was started; settle: waits for all that was.
start() {
  [[ $1 =~ ^(${LOCKSTEP_CHECKS:-.*})$ ]] || return 0
  names+=("$1")
  check "$1" "$2" bash -c 'short=($short_text); wide=($wide_text); "$@"' check "${@:3}" &
}
settle() { wait; }
run() { start "$@"; settle; }

if ! nvidia-smi >/dev/null 2>&1 && [[ -z ${LOCKSTEP_CHECKS_WITHOUT_GPU:-} ]]; then
  echo "run_gpu_checks: no GPU on this machine: nvidia-smi finds none" >&2
  exit 2
fi
run device 30 bash -c '"$bin/lockstep" --version && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader'
run alone 60 alone

# Results do not depend on what else the GPU has to do.
for folder in kernels ops; do for shard in 0 1 2; do start "test_${folder}_$shard" 240 unit_tests "$folder" "$shard" 3; done; done
for folder in tensor autodiff nn optim parallel train; do start "test_$folder" 240 unit_tests "$folder" 0 1; done
start digits_mlp 120 trained_and_accurate digits_mlp configs/digits_mlp.toml 0.96
start digits_cnn 120 trained_and_accurate digits_cnn configs/digits_cnn.toml 0.97
start digits_cnn_bf16 120 trained_and_accurate digits_cnn_bf16 configs/digits_cnn.toml 0.97 --set precision.compute=bf16
start digits_cnn_fp16 120 trained_and_accurate digits_cnn_fp16 configs/digits_cnn.toml 0.97 --set precision.compute=fp16
start digits_lstm 180 trained_and_accurate digits_lstm configs/digits_lstm.toml 0.9
start digits_transformer_bf16 180 trained_and_accurate digits_transformer_bf16 configs/digits_transformer.toml 0.9 \
  --set precision.compute=bf16
start recorded 120 recorded
start resumed 120 resumed
start exchange_nccl_1 120 exchange nccl 1
start exchange_staged_2 120 exchange staged 2
start exchange_staged_4 120 exchange staged 4
start staged_2 120 staged 2
start staged_4 180 staged 4
start sharded 120 sharded
start tuned 180 tuned
start moved_to_cpu 120 moved_to_cpu
start preload_pytorch 120 preload_pytorch
settle

run killed 60 killed

# By themselves: ranks of NCCL that share a GPU wait for each other on it, and times want it for themselves.
run exchange_nccl_2 60 exchange nccl 2
run nccl_two 60 nccl_two
run nccl_two_recorded 60 nccl_two_recorded
run nccl_stopped 60 nccl_stopped
run steps 60 steps
run speed 90 bench device_benchmark cuda 128
run pytorch 120 pytorch

start memcheck 150 sanitized memcheck 0 1
for shard in 0 1 2 3; do start "racecheck_$shard" 150 sanitized racecheck "$shard" 4; done
settle

{
  gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
  echo "Commit $(head -n 1 VERSION 2>/dev/null || echo unknown), $(date -u +%F), ${gpu:-no GPU}: \`run_gpu_checks.sh\`"
  echo
  echo "| check | result | seconds | last line |"
  echo "|---|---|---|---|"
  for name in "${names[@]}"; do
    IFS='|' read -r verdict seconds last 2>/dev/null <"$results/$name.row" || IFS='|' read -r verdict seconds last <<<"FAILED|-|no result"
    echo "| $name | $verdict | $seconds | $last |"
  done
  for name in steps speed pytorch; do
    grep -q '^|' "$results/$name.log" 2>/dev/null || continue
    echo
    grep -E '^([|]|PyTorch|cuda: .* arrays of|$)' "$results/$name.log" | cat -s
  done
} | tee "$results/table.md"
passed=$(cat "$results"/*.row 2>/dev/null | grep -c '^ok')
not_run=$(cat "$results"/*.row 2>/dev/null | grep -c '^not run')
failures=$((${#names[@]} - passed - not_run))
echo "$failures of ${#names[@]} checks failed, $not_run not run; logs are in $results; $((SECONDS - begin)) seconds"
((passed > 0 && failures == 0))
