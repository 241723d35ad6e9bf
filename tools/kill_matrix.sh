#!/usr/bin/env bash
# Kills training runs and shows that nothing is lost: tools/kill_matrix.sh [KILLS] [COMMAND SHIM]. KILLS (1000) in all: as many as there
# are system calls that deal with files in a run that resumes, saves and ends, one at each (or, where KILLS is small, at every so many);
# the others at random moments, of one process, of one of two workers, and of all of them. After each:
#   - every checkpoint verifies and has the digest that a run which nobody disturbs has at that step,
#   - the newest is not older than the newest that was there before the kill,
#   - the run goes on from it: the next kill is of the run that continues this one.
# SEED in the environment: of the random moments. Exit code 1 at the first that fails, with its run in $TMPDIR.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kills=${1:-1000}
lockstep=${2:-$root/build/release/bin/lockstep}
shim=${3:-$root/build/release/lib/libfault_shim.so}
for file in "$lockstep" "$shim"; do [ -e "$file" ] || { echo "kill_matrix.sh: $file: no such file" >&2; exit 2; }; done
RANDOM=${SEED:-$$}
seed=${SEED:-$$}
work=$(mktemp -d)
# Of some hundred workers that are killed while they start one leaves an mpirun that never ends: launch/mpirun.sh ends it.
export OMPI_MCA_rmaps_base_oversubscribe=1 LOCKSTEP_SILENCE=5
every=20 last=4000
settings=("$root/configs/digits_mlp.toml" --set train.epochs=0 --set "train.steps=$last" --set "checkpoint.every=$every" --set train.evaluate_every=0
  --set device.threads=1 --set "data.train=$root/configs/data/digits.h5")

fail() {
  echo "kill $done_kills (SEED=$seed): $*; the run is in $work" >&2
  exit 1
}
# What digest each step has.
"$lockstep" train "${settings[@]}" --set "parallel.digest_every=$every" --set checkpoint.every=0 --output "$work/undisturbed" >/dev/null 2>"$work/log" || {
  cat "$work/log" >&2
  exit 1
}
declare -A expected=()
while read -r step digest; do expected[$step]=$digest; done < <(
  sed -nE 's/.*"step":([0-9]+),"digest":"([0-9a-f]+)".*/\1 \2/p' "$work/undisturbed/metrics.jsonl")
[ "${#expected[@]}" -eq $((last / every)) ] || { echo "no digests of the undisturbed run" >&2; exit 1; }

newest=0 done_kills=0
# Of the newest file by name; 0 where there is none.
newest_in() {
  local files=("$1"/step-*.h5)
  newest=0
  [ ! -e "${files[-1]}" ] || newest=$((10#$(basename "${files[-1]}" .h5 | cut -d- -f2)))
}
# check OUTPUT BEFORE
check() {
  local file step
  for file in "$1"/step-*.h5; do
    [ -e "$file" ] || continue
    step=$((10#$(basename "$file" .h5 | cut -d- -f2)))
    [ "$("$lockstep" inspect --digest "$file" 2>&1)" = "${expected[$step]:-none}" ] || fail "$file has another digest, or is damaged"
  done
  newest_in "$1"
  [ "$newest" -ge "$2" ] || fail "the newest checkpoint was of step $2, and is of step $newest"
}

# ---- at each system call. A run that goes on from step 2 * every and ends at 3 * every, whose checkpoint takes the place of the oldest.
short=("${settings[@]}" --set "train.steps=$((3 * every))" --set checkpoint.keep=2)
"$lockstep" train "${short[@]}" --set "train.steps=$((2 * every))" --output "$work/begun" >/dev/null 2>&1
# attempt NUMBER: killed at that call; the exit code in `code`.
attempt() {
  rm -rf "$work/run"
  cp -r "$work/begun" "$work/run"
  code=0
  LD_PRELOAD=$shim LOCKSTEP_FAULTS="any#$1=kill" LOCKSTEP_FAULTS_UNDER=$work/run \
    "$lockstep" train "${short[@]}" --output "$work/run" --resume >/dev/null 2>&1 || code=$?
}
# How many there are: the first that a run does not come to. (Those of status.json depend on the clock; they are few.)
calls=1
{ attempt "$calls"; while [ "$code" -ne 0 ]; do calls=$((calls * 2)); attempt "$calls"; done; } 2>/dev/null
stride=$(((calls + kills / 2 - 1) / (kills / 2)))
for ((number = 1; number <= calls && done_kills < kills; number += stride)); do
  { attempt "$number"; } 2>/dev/null
  [ "$code" -ne 0 ] || break
  [ "$code" -eq 137 ] || fail "call $number: exit code $code"
  done_kills=$((done_kills + 1))
  check "$work/run" $((2 * every))
  "$lockstep" train "${short[@]}" --output "$work/run" --resume >"$work/log" 2>&1 || fail "call $number: does not resume: $(cat "$work/log")"
  check "$work/run" $((3 * every))
done
at_calls=$done_kills

# ---- at random moments
of_workers=0 runs=0
while [ "$done_kills" -lt "$kills" ]; do
  run=$work/random/$runs before=0
  runs=$((runs + 1))
  while [ "$done_kills" -lt "$kills" ] && [ "$before" -lt "$last" ]; do
    launcher=() victims=one
    case $((RANDOM % 8)) in
      0) launcher=("$root/launch/mpirun.sh" -q -np 2) victims=any ;;
      1) launcher=("$root/launch/mpirun.sh" -q -np 2) victims=all ;;
    esac
    "${launcher[@]}" "$lockstep" train "${settings[@]}" --output "$run" --resume=auto >/dev/null 2>&1 &
    job=$!
    # Most of them when it has saved something: how long that takes depends on what else the machine does. The others at any moment before.
    if [ $((RANDOM % 4)) -gt 0 ]; then
      newest_in "$run"
      while [ "$newest" -le "$before" ] && kill -0 "$job" 2>/dev/null; do
        sleep 0.02
        newest_in "$run"
      done
    fi
    sleep "$(printf '0.%03d' $((RANDOM % 100)))"
    newest_in "$run"
    before=$newest
    found=("$job")
    if [ "$victims" != one ]; then
      # The workers; where there are none yet, mpirun.
      while
        mapfile -t found < <(pgrep -f "^$lockstep train .*--output $run " || pgrep -f "^mpirun .*--output $run ")
        [ "${#found[@]}" -eq 0 ] && kill -0 "$job" 2>/dev/null
      do
        sleep 0.01
      done
      [ "$victims" = all ] || [ "${#found[@]}" -eq 0 ] || found=("${found[RANDOM % ${#found[@]}]}")
    fi
    # One that has ended by itself was not killed.
    if kill -KILL "${found[@]}" 2>/dev/null; then
      done_kills=$((done_kills + 1))
      [ "$victims" = one ] || of_workers=$((of_workers + 1))
    fi
    { wait "$job" || true; } 2>/dev/null
    check "$run" "$before"
    before=$newest
  done
  "$lockstep" train "${settings[@]}" --output "$run" --resume=auto >"$work/log" 2>&1 || fail "does not end: $(cat "$work/log")"
  check "$run" "$last"
  [ "$newest" -eq "$last" ] || fail "the last checkpoint is of step $newest"
  rm -rf "$run"
done
echo "$done_kills kills (SEED=$seed): $at_calls at system calls of resuming and saving, $((done_kills - at_calls)) at random moments, $of_workers of these of" \
  "two workers; nothing lost, all digests equal"
rm -rf "$work"
