#!/usr/bin/env bash
# All checks and benchmarks that need a GPU, in one call under ten minutes:
#   ./run_gpu_checks.sh [--parts PART,...] [--rehearse] [RESULTS]   (./results)
#   lm        training of GPT-2 of 124, 355 and 1558 million parameters beside PyTorch, eager, compiled and in CUDA graphs
#   profile   every kernel of a step of GPT-2 124M, with its floor
#   unit      kernels, ops, models, optimizers and training against the CPU; digests of runs that must be the same
#   compare   kernels against the device's copies, products and attention; small networks beside PyTorch eager
#   sanitize  compute-sanitizer over the tests of kernels
# Parts run in the order of --parts (lm,profile,unit,compare,sanitize), each for no longer than its own limit. What is found is
# written at once, so that a call which is cut off loses nothing: RESULTS/table.md, a line a check under one with commit, date, GPU
# and driver, and behind them the tables of speed (what to keep of a run, as tools/bench/results/DATE-GPU.md); the logs that those
# come from; failures.log. Exit status: 0 when no check failed, 1 when one did, 2 without a GPU.
# --rehearse: every line of it at tiny sizes, from the build folder and over the stand-ins for the CUDA libraries, without a GPU.
# LOCKSTEP_CHECK_SECONDS: the limit of the whole call (570). Checks that no time is left for are named as not run.
# LOCKSTEP_CHECKS: a regular expression; only checks whose whole name matches are run ("alone" makes what others compare with).
set -uo pipefail

parts=lm,profile,unit,compare,sanitize
rehearse=
results=results
while (($# > 0)); do
  case $1 in
    --parts) parts=${2:?--parts PART,...} && shift ;;
    --rehearse) rehearse=1 ;;
    -*) echo "run_gpu_checks: unknown option $1" >&2 && exit 2 ;;
    *) results=$1 ;;
  esac
  shift
done
for part in ${parts//,/ }; do
  [[ $part =~ ^(lm|profile|unit|compare|sanitize)$ ]] || { echo "run_gpu_checks: unknown part $part" >&2; exit 2; }
done
results=$(realpath -m "$results")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$here/bin
mpirun=("$bin/mpirun" --oversubscribe)
if [[ ! -x $bin/lockstep ]]; then
  here=$(dirname "$here")
  bin=$here/build/release/bin
  mpirun=(mpirun --oversubscribe --bind-to none)
fi
cd "$here" || exit 2
mkdir -p "$results"
rm -f "$results"/{*.log,table.md}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
limit=${LOCKSTEP_CHECK_SECONDS:-570}
begin=$SECONDS
names=()
tables=(language_models profile speed pytorch steps)  # checks whose logs hold tables to keep
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 GTEST_COLOR=no GTEST_BRIEF=1
python=${LOCKSTEP_PYTHON:-python3}
if [[ -n $rehearse ]]; then
  export LD_LIBRARY_PATH=$here/build/release/lib/cuda_on_cpu
else
  # CUDA's libraries may lie among Python's packages alone; compute-sanitizer beside the toolkit.
  packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
  for folder in "$packages"/nvidia/*/lib; do
    [[ ! -d $folder ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
  done
  PATH=$PATH:/usr/local/cuda/bin
fi

# log_of NAME: where a check's output goes.
log_of() { [[ " ${tables[*]} " == *" $1 "* ]] && echo "$results/$1.log" || echo "$work/$1.log"; }

# check NAME SECONDS COMMAND...: passes when the command does; the last line of its log is what the table shows.
check() {
  local name=$1 seconds=$2 left=$((part_end - SECONDS)) start=$SECONDS status verdict log
  log=$(log_of "$name")
  shift 2
  ((left < limit + begin - SECONDS)) || left=$((limit + begin - SECONDS))
  if ((left < 5)); then
    echo "not run|-|no time left" >"$work/$name.row"
    return
  fi
  timeout --kill-after=5 "$((seconds < left ? seconds : left))" "$@" >"$log" 2>&1
  status=$?
  case $status in
    0) verdict=ok ;;
    77) verdict="not run" ;;
    124 | 137) verdict="TIME OUT" ;;
    *) verdict="FAILED ($status)" ;;
  esac
  echo "$verdict|$((SECONDS - start))|$(grep -v '^ *$' "$log" | tail -n 1 | tr '|' '/' | cut -c1-90)" >"$work/$name.row"
  [[ $verdict == ok || $verdict == "not run" ]] ||
    { echo "==== $name: $verdict"; tail -n 200 "$log"; } >"$work/$name.failure"
  printf '%-28s %-12s %4d s\n' "$name" "$verdict" "$((SECONDS - start))" >&2
}

# unit_tests FOLDER SHARD SHARDS: every SHARDS-th case of a folder.
unit_tests() { LOCKSTEP_TEST_DEVICE=cuda GTEST_SHARD_INDEX=$2 GTEST_TOTAL_SHARDS=$(($3 * (rehearse ? 40 : 1))) "$bin/$1_test"; }

# train NAME WORKERS CONFIG OPTIONS...: one run into $work/NAME on the GPU.
train() {
  local name=$1 workers=$2 config=$3 launch=()
  shift 3
  rm -rf "${work:?}/$name"
  ((workers == 0)) || launch=($mpirun_text -np "$workers")
  "${launch[@]}" "$bin/lockstep" train "$config" --output "$work/$name" --device cuda "$@" "${tiny[@]}"
}
newest() { find "$work/$1" -name 'step-*.h5' 2>/dev/null | sort | tail -n 1; }
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
  [[ -n $rehearse ]] || awk -v a="${accuracy:-0}" -v b="$3" 'BEGIN {exit !(a >= b)}'
}
short=(--set train.epochs=2 --set checkpoint.every=22)
tiny=()
[[ -z $rehearse ]] || tiny=(--set train.epochs=0 train.steps=4 train.micro_batch_size=2 train.evaluate_every=0 checkpoint.every=2)

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
  rm -rf "${work:?}/killed"
  [[ -z $rehearse ]] || tiny+=(train.steps=24)
  train killed 3 configs/digits_cnn.toml "${workers[@]}" &
  until [[ -n $(newest killed) ]]; do
    kill -0 $! || return 1
    sleep 0.05
  done
  pkill -KILL -f -- "--output $work/killed" || return 1
  if wait $!; then
    echo "the run was over before it was killed"
    return 1
  fi
  echo "killed after $(basename "$(newest killed)")"
  "$bin/lockstep" train configs/digits_cnn.toml "${workers[@]}" --output "$work/killed" --device cuda --resume "${tiny[@]}" || return 1
  [[ -z $rehearse ]] || train digits_cnn 0 configs/digits_cnn.toml || return 1
  same digits_cnn killed
}
# Two ranks of NCCL on one GPU: each says that it is a host of its own, so that NCCL does not refuse.
two_of_nccl() {
  NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo NCCL_MAX_CTAS=2 $mpirun_text -np 2 sh -c \
    'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$@"' rank "$@"
}
train_by_nccl() {  # NAME CONFIG OPTIONS...
  rm -rf "${work:?}/$1"
  two_of_nccl "$bin/lockstep" train "${@:2}" --output "$work/$1" --device cuda --set parallel.share_gpu=true \
    --set parallel.gpu_transport=nccl "${tiny[@]}"
}
nccl_two() { train_by_nccl nccl_two configs/digits_cnn.toml "${short[@]}" && same alone nccl_two; }
nccl_two_recorded() {
  train_by_nccl nccl_two_recorded configs/digits_cnn.toml --set device.cuda_graph=true "${short[@]}" && same alone nccl_two_recorded
}
# One of the two stops answering: the other says so and ends the job.
nccl_stopped() {
  rm -rf "${work:?}/nccl_stopped"
  [[ -z $rehearse ]] || tiny+=(train.steps=100000)
  train_by_nccl nccl_stopped configs/digits_cnn.toml --set train.epochs=5000 --set checkpoint.every=22 \
    --set parallel.timeout=4 &
  local job=$! status
  until [[ -n $(newest nccl_stopped) ]]; do
    kill -0 "$job" || return 1
    sleep 0.05
  done
  kill -STOP "$(pgrep -n -f -- "lockstep train .*--output $work/nccl_stopped")" || return 1
  wait "$job"
  status=$?
  pkill -KILL -f -- "--output $work/nccl_stopped"
  grep -h "not finished after" "$work/nccl_stopped.log" | tail -n 1
  echo "exit code $status, 6 expected"
  ((status == 6))
}
# Collectives and the exchange of gradients, between buffers on the GPU: TRANSPORT WORKERS.
exchange() {
  if [[ $1 == nccl && $2 == 2 ]]; then
    two_of_nccl "$bin/distributed_workers" 2 nccl
  else
    $mpirun_text -np "$2" "$bin/distributed_workers" "$2" "$1"
  fi
}
# Plans belong to a run; a cache brings them to another one.
tuned() {
  rm -f "$work/plans"
  export LOCKSTEP_PLAN_CACHE=$work/plans
  train tuned_1 0 configs/digits_cnn.toml --set device.tune=true "${short[@]}" &&
    train tuned_2 2 configs/digits_cnn.toml --set device.tune=true --set parallel.share_gpu=true "${short[@]}" &&
    same tuned_1 tuned_2
}
# Steps that are recorded and replayed.
recorded() { train recorded 0 configs/digits_cnn.toml --set device.cuda_graph=true "${short[@]}" && same alone recorded; }
# resume NAME DEVICE: the run of `alone` once more from its first checkpoint.
resume() {
  rm -rf "${work:?}/$1"
  cp -r "$work/alone" "$work/$1" && rm -f "$work/$1/$(basename "$(newest alone)")" &&
    "$bin/lockstep" train configs/digits_cnn.toml "${short[@]}" --output "$work/$1" --device "$2" --resume "${tiny[@]}"
}
resumed() { resume resumed cuda && same alone resumed; }
moved_to_cpu() {
  resume moved cpu && "$bin/lockstep" eval configs/digits_cnn.toml --checkpoint "$(newest moved)" --device cuda
}
# sanitized TOOL SHARD SHARDS: every SHARDS-th case of what calls kernels one by one.
sanitized() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; return 77; }
  LOCKSTEP_TEST_DEVICE=cuda GTEST_SHARD_INDEX=$2 GTEST_TOTAL_SHARDS=$3 compute-sanitizer --tool "$1" --target-processes all --error-exitcode 9 \
    "$bin/kernels_test" --gtest_filter='*Cuda*:AttentionParity/2.*'
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
    line=$(grep samples_per_second "$work/$name/metrics.jsonl" | tail -n 1)
    echo "| $name | $(for field in samples_per_second compute_seconds exposed_communication_seconds optimizer_seconds host_seconds; do
      sed -n "s/.*\"$field\": *\([^,}]*\).*/\1/p" <<<"$line"
    done | awk 'NR == 1 {printf "%.0f", $1} NR > 1 {printf " | %s", $1 == "null" ? "-" : sprintf("%.1f", 1e6 * $1)}') |"
  done
}
# Against PyTorch in eager mode, where the machine has it; the row that counts comes last.
pytorch() {
  command -v "$python" >/dev/null || { echo "$python is not installed"; return 77; }
  local how=(--repeats 2 --seconds 1 --rows cnn wide-bf16 mlp)
  [[ -z $rehearse ]] || how=(--repeats 1 --seconds 0.01 --rows mlp --rehearse)
  "$python" tools/compare_pytorch.py --device cuda --lockstep "$bin/lockstep" --python "$python" "${how[@]}"
}
# Of language models; LIMIT seconds.
language_models() {
  command -v "$python" >/dev/null || { echo "$python is not installed"; return 77; }
  "$python" tools/compare_language_models.py --device cuda --lockstep "$bin/lockstep" --python "$python" --limit "$1" \
    ${rehearse:+--rehearse --rows 1558M-16 355M-4}
}
# Every kernel of a step of GPT-2, recorded apart from the other checks: they would be in its times.
profile() {
  local data=$work/tokens.bin vocabulary=50257 sizes=(--set data.classes=50304 data.context=1024 train.micro_batch_size=32)
  if [[ -n $rehearse ]]; then
    vocabulary=256
    sizes=(--set data.classes=256 data.context=32 model.layers=2 model.width=64 model.heads=2 model.context=32 train.micro_batch_size=2)
  fi
  # Of llm.c: 256 numbers, the first three a sign, the version and the count of tokens, which follow in 16 bits.
  "$python" - "$data" "$vocabulary" <<'TOKENS' || return 77
import array, random, sys
count, draw = 1 << 17, random.Random(1)
with open(sys.argv[1], "wb") as file:
    array.array("i", [20240520, 1, count, *[0] * 253]).tofile(file)
    array.array("H", [draw.randrange(int(sys.argv[2])) for _ in range(count)]).tofile(file)
TOKENS
  "$bin/lockstep" profile configs/language/gpt2_124m.toml --device cuda --set data.train="$data" data.validation_fraction=0 \
    train.micro_batches=1 train.evaluate_every=0 device.tune=true "${sizes[@]}"
}
preload_pytorch() { "$python" -c 'import torch; torch.cuda.init(); print("PyTorch", torch.__version__)' || return 77; }
export -f unit_tests train newest digest same accuracy_of trained_and_accurate alone staged sharded killed two_of_nccl train_by_nccl nccl_two nccl_two_recorded nccl_stopped exchange tuned recorded resume resumed moved_to_cpu sanitized bench steps pytorch preload_pytorch language_models profile
export results work bin python rehearse
export short_text="${short[*]}" wide_text="${wide[*]}" tiny_text="${tiny[*]}" mpirun_text="${mpirun[*]}"
# run NAME SECONDS COMMAND...: by itself; start: beside what else was started; settle: waits for all that was.
start() {
  [[ $1 =~ ^(${LOCKSTEP_CHECKS:-.*})$ ]] || return 0
  names+=("$1")
  check "$1" "$2" bash -c 'short=($short_text); wide=($wide_text); tiny=($tiny_text); "$@"' check "${@:3}" &
}
settle() {
  wait
  write_table
}
run() { start "$@"; settle; }

write_table() {
  {
    echo "Commit $commit, $(date -u +%F), ${gpu:-no GPU}: \`run_gpu_checks.sh\`"
    echo
    echo "| check | result | seconds | last line |"
    echo "|---|---|---|---|"
    for name in "${names[@]}"; do
      IFS='|' read -r verdict seconds last 2>/dev/null <"$work/$name.row" || IFS='|' read -r verdict seconds last <<<"FAILED|-|no result"
      echo "| $name | $verdict | $seconds | $last |"
    done
    for name in "${tables[@]}"; do
      grep -q '^|' "$results/$name.log" 2>/dev/null || continue
      echo
      grep -E '^([|]|PyTorch|MFU|A step|cuda: |missing|$)' "$results/$name.log" | cat -s
    done
  } >"$results/table.md"
  cat "$work"/*.failure >"$results/failures.log" 2>/dev/null
}

if [[ -z $rehearse ]] && ! nvidia-smi >/dev/null 2>&1; then
  echo "run_gpu_checks: no GPU on this machine: nvidia-smi finds none" >&2
  exit 2
fi
commit=$(head -n 1 VERSION 2>/dev/null || git rev-parse HEAD 2>/dev/null || echo unknown)
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)

part_lm() {
  run language_models 300 language_models 290
}
part_profile() {
  run profile 60 profile
}
part_unit() {
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
  settle
  run killed 60 killed
  # By themselves: ranks of NCCL that share a GPU wait for each other on it.
  run exchange_nccl_2 60 exchange nccl 2
  run nccl_two 60 nccl_two
  run nccl_two_recorded 60 nccl_two_recorded
  run nccl_stopped 60 nccl_stopped
}
part_compare() {
  start preload_pytorch 120 preload_pytorch
  run speed 90 bench device_benchmark cuda "$((rehearse ? 1 : 128))"
  run steps 60 steps
  run pytorch 120 pytorch
}
part_sanitize() {
  start memcheck 150 sanitized memcheck 0 1
  for shard in 0 1 2 3; do start "racecheck_$shard" 150 sanitized racecheck "$shard" 4; done
  settle
}

declare -A part_seconds=([lm]=300 [profile]=60 [unit]=240 [compare]=200 [sanitize]=150)
part_end=$((SECONDS + 30))
run device 30 bash -c '"$bin/lockstep" --version && { [[ -n $rehearse ]] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; }'
for part in ${parts//,/ }; do
  part_end=$((SECONDS + part_seconds[$part]))
  "part_$part"
done

cat "$results/table.md"
passed=$(cat "$work"/*.row 2>/dev/null | grep -c '^ok')
not_run=$(cat "$work"/*.row 2>/dev/null | grep -c '^not run')
failures=$((${#names[@]} - passed - not_run))
echo "$failures of ${#names[@]} checks failed, $not_run not run; logs are in $results; $((SECONDS - begin)) seconds"
((passed > 0 && failures == 0))
