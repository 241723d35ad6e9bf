#!/usr/bin/env bash
# Trains with several workers on this machine: launch/local.sh [-n WORKERS] [--restarts N] CONFIG [ARGUMENT...].
# Arguments after CONFIG go to `lockstep train`, e.g. --resume or --set optimizer.learning_rate=3e-4. Without -n there is
# one worker a processor core. TERM, Ctrl-C or a terminal that is closed: the run saves a checkpoint and ends with exit code 75.
# --restarts N: a run that fails is started again from its newest checkpoint, at most N times, unless another start is of no use
# (exit codes 2 to 5) or three in a row have left no new checkpoint. Needs --output DIR.
{
source "$(dirname "${BASH_SOURCE[0]}")/run_to_end.sh"  # signals are noted from here on
set -euo pipefail

usage() {
  echo "usage: launch/local.sh [-n WORKERS] [--restarts N] CONFIG [ARGUMENT...]" >&2
  exit 2
}

# What Open MPI counts as slots, within what this process may use.
lscpu -p=CORE,SOCKET | grep -v '^#' | sort -u | wc -l | read -r cores || cores=1
nproc | read -r allowed || allowed=1
[ "$cores" -le "$allowed" ] || cores=$allowed

workers=$cores restarts=0
while [ "${1:-}" = -n ] || [ "${1:-}" = --restarts ]; do
  [[ "${2:-}" =~ ^[1-9][0-9]{0,5}$ ]] || usage
  if [ "$1" = -n ]; then workers=$2; else restarts=$2; fi
  shift 2
done
[ "$#" -ge 1 ] || usage

output='' again=() first=("$@")
if [ "$restarts" -gt 0 ]; then
  chosen=false
  while [ "$#" -gt 0 ]; do
    case $1 in
      --output) output=${2:-} again+=("$1") ;;
      --output=*) output=${1#--output=} again+=("$1") ;;
      --resume | --resume=* | --overwrite) chosen=true ;;
      *) again+=("$1") ;;
    esac
    shift
  done
  if [ -z "$output" ]; then
    echo "local: --restarts needs --output DIR, whose checkpoints tell whether a start got further" >&2
    exit 2
  fi
  again+=(--resume=auto)
  $chosen || first=("${again[@]}")
fi

command=$root/build/release/bin/lockstep
if [ ! -x "$command" ]; then
  echo "local: $command was not found; launch/build.sh builds it" >&2
  exit 2
fi

options=(-np "$workers")
[ "$workers" -le "$cores" ] || options+=(--oversubscribe)
arguments=("${first[@]}")
checkpoint_mark "$output"
origin=$newest
while true; do
  newest_checkpoint "$output"
  status=0 before=$newest
  run_to_end "${options[@]}" "$command" train "${arguments[@]}" || status=$?
  if [ "$restarts" -eq 0 ] || [ "$status" -eq 75 ] || [ "$stops" -gt 0 ] || ! worth_another_start "$status"; then break; fi
  restarts=$((restarts - 1))
  await_saves
  if begun "$output" "$origin"; then arguments=("${again[@]}"); fi
  got_further local "$output" "$before" || break
  echo "local: the run ended with exit code $status: starting it again" >&2
done
end_with "$status"
}
