#!/usr/bin/env bash
# The batch script for Slurm saves and is put into the queue again, whatever signals Slurm sends and whenever; so is one that fails,
# while that is of use.
set -euo pipefail

launch=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/launch" "$root/build/release/bin"
cp "$launch/run_to_end.sh" "$root/launch"
cp "$(dirname "$0")/mpirun_standin" "$root/bin/mpirun"
# shellcheck disable=SC2016  # expanded when it runs
printf '#!/bin/sh\necho "$@" >>"$NOTES"\n' >"$root/bin/scontrol"
printf '#!/bin/sh\n' >"$root/build/release/bin/lockstep"
chmod +x "$root/bin/scontrol" "$root/build/release/bin/lockstep"
export PATH=$root/bin:$PATH NOTES=$root/notes SLURM_SUBMIT_DIR=$root SLURM_JOB_ID=7 SLURM_NTASKS=2

failures=0
check() {
  if [ "$2" != "$3" ]; then
    printf '%s: expected %s, got %s\n' "$1" "$2" "$3" >&2
    failures=$((failures + 1))
  fi
}
# job HOW DELAY SIGNAL...: the exit code of a job of that kind which gets these signals 0.5 s apart, the first after DELAY (ready:
# when mpirun runs).
job() {
  local how=$1 delay=$2 code=0
  shift 2
  : >"$NOTES"
  "$launch/slurm.sbatch" "$how" >/dev/null 2>&1 &
  local job=$!
  # Slurm signals a script that runs: one that has come to its handlers.
  until grep -q 'SigCgt:.*[4-7c-f]...$' "/proc/$job/status"; do sleep 0.01; done
  if [ "$delay" = ready ]; then
    until [ -s "$NOTES" ]; do sleep 0.05; done
  else
    sleep "$delay"
  fi
  for signal in "$@"; do
    kill -"$signal" "$job" 2>/dev/null || true
    sleep 0.5
  done
  wait "$job" || code=$?
  echo "$code"
}

check "exit code when the time is up" 75 "$(job slow ready USR1 TERM)"
check "what happens then" "USR1 ready requeue 7 " "$(sort -u "$NOTES" | tr '\n' ' ')"
for delay in 0 0.02 0.05 0.1 0.2; do
  check "exit code of a stop after $delay s" 75 "$(job program "$delay" TERM)"
  check "it is put into the queue again" 1 "$(grep -c '^requeue 7$' "$NOTES")"
done
: >"$NOTES"
check "exit code of a run that another start does not help" 3 "$(
  code=0
  "$launch/slurm.sbatch" config.toml exit 3 >/dev/null 2>&1 || code=$?
  echo "$code"
)"
check "what happens then" 0 "$(grep -c '^requeue' "$NOTES")"

# One that fails: three starts without a new checkpoint, and one more each time that there is one.
# failing: the exit code of such a start, and how often the job was put into the queue.
failing() {
  local code=0
  : >"$NOTES"
  "$launch/slurm.sbatch" config.toml exit 6 >/dev/null 2>&1 || code=$?
  echo "$code $(grep -c '^requeue 7$' "$NOTES")"
}
rm -rf "$root/runs"
for expected in "6 1" "6 1" "6 0"; do check "start without a checkpoint" "$expected" "$(failing)"; done
rm -f "$root"/runs/*.fruitless_starts
mkdir -p "$root/runs/slurm-7"
: >"$root/runs/slurm-7/step-000000001.h5"
for expected in "6 1" "6 1"; do check "start without a new checkpoint" "$expected" "$(failing)"; done
check "signals" 75 "$(job program ready TERM)"
for expected in "6 1" "6 1" "6 0"; do check "start after one that saved" "$expected" "$(failing)"; done
[ "$failures" -eq 0 ]
