#!/usr/bin/env bash
# The batch script for Slurm saves and is put into the queue again, whatever signals Slurm sends and whenever; so is one that fails,
# while that is of use.
set -euo pipefail

launch=$1
root="$(mktemp -d)/a [checkout]*"
trap 'rm -rf "$(dirname "$root")"' EXIT
mkdir -p "$root/bin" "$root/launch" "$root/build/release/bin"
cp "$launch/run_to_end.sh" "$root/launch"
cp "$(dirname "$0")/mpirun_standin" "$root/bin/standin"
# stand_in NAME BODY: a command of that name.
stand_in() {
  printf '#!/bin/bash\n%s\n' "$2" >"$root/bin/$1"
  chmod +x "$root/bin/$1"
}
# shellcheck disable=SC2016  # expanded when they run
{
  stand_in mpirun 'echo "$*" | sed "s/--allow-run-as-root //; s: /.*bin/lockstep train: train:" >>"$ARGUMENTS"
[[ " $* " != *" later "* ]] || [ "$(wc -l <"$ARGUMENTS")" -gt 4 ] || exec leaves_later
exec standin "$@"'
  # A checkpoint that workers still write after mpirun has ended.
  stand_in leaves_later 'setsid lockstep-saves </dev/null >/dev/null 2>&1 &
until grep -qsx lockstep-saves "/proc/$!/comm"; do sleep 0.01; done
exit 6'
  stand_in lockstep-saves 'sleep 0.7; mkdir -p "$RUN"; : >"$RUN/step-$(printf %09d "$(wc -l <"$ARGUMENTS")").h5"'
  # Nodes that are files in $NODES take tasks.
  stand_in scontrol 'if [ "$1 $2" = "show job" ]; then cat "$NODES/../state"; elif [ "$1" = show ]; then printf "%s\n" n1 n2 n3; else echo "$@" >>"$NOTES"; fi'
  stand_in srun '[[ "$*" =~ --nodelist=([^ ]*) ]] && [ -e "$NODES/${BASH_REMATCH[1]}" ] || exit 1
[[ "$*" != *await_saves* ]] || echo "awaits ${BASH_REMATCH[1]}" >>"$NOTES"
while [[ "$1" = -* ]]; do shift; done
exec "$@"'
  stand_in squeue 'echo 7.batch; echo 7.3'
  stand_in scancel 'echo "scancel $*" >>"$NOTES"'
}
printf '#!/bin/sh\n' >"$root/build/release/bin/lockstep"
chmod +x "$root/build/release/bin/lockstep"
export PATH=$root/bin:$PATH NOTES=$root/notes ARGUMENTS=$root/arguments NODES=$root/nodes SLURM_SUBMIT_DIR=$root SLURM_JOB_ID=7
export SLURM_NTASKS=5 SLURM_JOB_NODELIST="n[1-3]" SLURM_TASKS_PER_NODE="2(x2),1" SLURM_CLUSTER_NAME=test SLURM_JOB_NAME=digits
unset SLURM_CPUS_PER_TASK SLURM_ARRAY_TASK_ID LOCKSTEP_FEWEST_NODES
mkdir "$NODES"
echo "JobState=RUNNING Reason=None" >"$root/state"

source "$(dirname "${BASH_SOURCE[0]}")/../check.sh"
# job HOW DELAY SIGNAL...: the exit code of a job of that kind which gets these signals 0.5 s apart, the first after DELAY (ready:
# when mpirun runs).
job() {
  local how=$1 delay=$2 code=0
  shift 2
  : >"$NOTES"
  "$launch/slurm.sbatch" "$how" >/dev/null 2>&1 &
  local job=$!
  # Slurm signals a script that runs: one that has come to its handlers. (Before it is that script, it has this one's.)
  until grep -q slurm.sbatch "/proc/$job/cmdline"; do sleep 0.01; done
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

# After scancel the job is on its way out; so it is when its time is up.
echo "JobState=COMPLETING Reason=None" >"$root/state"
check "exit code of a job that is cancelled" 75 "$(job program ready TERM)"
check "what happens then" 0 "$(grep -c '^requeue' "$NOTES")"
echo "JobState=COMPLETING Reason=TimeLimit" >"$root/state"
check "exit code when the time is up" 75 "$(job program ready TERM)"
check "what happens then" 1 "$(grep -c '^requeue' "$NOTES")"
echo "JobState=RUNNING Reason=None" >"$root/state"

# One that fails: three starts without a new checkpoint, and one more each time that there is one.
# failing [CODE]: the exit code of such a start, and how often the job was put into the queue.
failing() {
  local code=0
  : >"$NOTES"
  "$launch/slurm.sbatch" config.toml exit "${1:-6}" >/dev/null 2>&1 || code=$?
  echo "$code $(grep -c '^requeue' "$NOTES")"
}
rm -rf "$root/runs"
for expected in "6 1" "6 1" "6 0"; do check "start without a checkpoint" "$expected" "$(failing)"; done
for expected in "6 1" "6 1"; do check "start of a job after one that has given up" "$expected" "$(failing)"; done
check "start that succeeds" "0 0" "$(failing 0)"
for expected in "6 1" "6 1"; do check "start of a job after one that is done" "$expected" "$(failing)"; done
check "start of one of the same name beside it" "6 1" "$(SLURM_JOB_ID=8 failing)"
check "start that another does not help" "5 0" "$(failing 5)"
mkdir -p "$root/runs/test/digits"
: >"$root/runs/test/digits/step-000000001.h5"
for expected in "6 1" "6 1"; do check "start without a new checkpoint" "$expected" "$(failing)"; done
check "signals" 75 "$(job program ready TERM)"
for expected in "6 1" "6 1" "6 0"; do check "start after one that saved" "$expected" "$(failing)"; done

# One that is to begin anew does so until it has a checkpoint of its own, through the queue too.
# begins CODE: how such a start of a job begins, which ends so.
begins() {
  : >"$ARGUMENTS"
  "$launch/slurm.sbatch" config.toml --overwrite exit "$1" >/dev/null 2>&1 || true
  grep -oE -- '--(overwrite|resume[^ ]*)' "$ARGUMENTS" | paste -sd' '
}
rm -f "$root"/runs/test/*.fruitless_starts
check "first start of a run that is to begin anew" "--overwrite" "$(begins 6)"
check "start after one that has left no checkpoint" "--overwrite" "$(SLURM_RESTART_COUNT=1 begins 6)"
: >"$root/runs/test/digits/step-000000002.h5"
check "start after one that has" "--resume=auto" "$(SLURM_RESTART_COUNT=2 begins 6)"
check "first start of another such job" "--overwrite" "$(SLURM_JOB_ID=8 begins 6)"
check "last start of the job" "--resume=auto" "$(SLURM_RESTART_COUNT=3 begins 0)"
check "start of that job once more" "--resume=auto" "$(SLURM_RESTART_COUNT=4 begins 0)"
check "what is left beside the run" "digits digits.origin.8 " \
  "$(find "$root/runs/test" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' ')"

# Cancelled while it waits for what is still written, it does not go into the queue.
: >"$NOTES"
rm -f "$root"/runs/test/*.fruitless_starts
RUN=$root/runs/test/digits "$launch/slurm.sbatch" config.toml later exit 0 >/dev/null 2>&1 &
until grep -qsx lockstep-saves /proc/[0-9]*/comm; do sleep 0.01; done
echo "JobState=COMPLETING Reason=None" >"$root/state"
kill -TERM "$!"
wait "$!" || true
echo "JobState=RUNNING Reason=None" >"$root/state"
while grep -qsx lockstep-saves /proc/[0-9]*/comm; do sleep 0.05; done
check "the queue after a job that was cancelled while workers wrote" 0 "$(grep -c '^requeue' "$NOTES")"

# Within the job on the nodes that are left, until three starts have left no new checkpoint.
# failing_within ARGUMENT...: what mpirun was given, start by start.
failing_within() {
  rm -rf "$root/runs"
  : >"$NOTES"
  : >"$ARGUMENTS"
  "$launch/slurm.sbatch" "$@" exit 6 >/dev/null 2>&1 || true
  sed "s:$(printf %s "$root" | sed 's/[][*]/\\&/g'):ROOT:; s/--host n1:2,n3:1/--host n3:1,n1:2/" "$ARGUMENTS"
}
rest="train config.toml exit 6 --resume=auto --output ROOT/runs/test/digits"
touch "$NODES/n1" "$NODES/n3"
check "starts on the nodes that are left" "-np 5 $rest|-np 3 --host n3:1,n1:2 $rest|-np 3 --host n3:1,n1:2 $rest" \
  "$(failing_within config.toml | paste -sd'|')"
check "steps that are ended before" "scancel --signal=KILL 7.3" "$(grep -v '^awaits' "$NOTES" | sort -u)"
check "starts with too few nodes left" "1" "$(LOCKSTEP_FEWEST_NODES=3 failing_within config.toml | wc -l)"
check "the queue then" "1" "$(grep -c '^requeue 7$' "$NOTES")"
rm -rf "$root/runs"
: >"$NOTES"
: >"$ARGUMENTS"
check "a run each of whose starts still writes a checkpoint" 0 "$(
  code=0
  RUN=$root/runs/test/digits "$launch/slurm.sbatch" config.toml later exit 0 >/dev/null 2>&1 || code=$?
  echo "$code"
)"
check "its starts" 5 "$(wc -l <"$ARGUMENTS")"
check "where it waits for them" "awaits n1 awaits n3" "$(grep awaits "$NOTES" | sort -u | paste -sd' ')"
rm "$NODES"/*
rm -rf "$root/runs"
: >"$ARGUMENTS"
RUN=$root/runs/test/digits "$launch/slurm.sbatch" config.toml later exit 0 >/dev/null 2>&1 || true
check "checkpoints when no node is left and the job goes into the queue" 1 "$(find "$root/runs" -name 'step-*.h5' | wc -l)"
check "threads and the directory of a job without a name" \
  "-np 5 train config.toml exit 6 --set device.threads=3 --resume=auto --output ROOT/runs/test/lockstep-7" \
  "$(SLURM_CPUS_PER_TASK=3 SLURM_JOB_NAME=lockstep failing_within config.toml)"
check "the user's threads and directory" "-np 5 train config.toml --set device.threads=1 --output ROOT/out exit 6 --resume=auto" \
  "$(SLURM_CPUS_PER_TASK=3 failing_within config.toml --set device.threads=1 --output "$root/out")"
check "the directory of a task of an array" "ROOT/runs/test/a_b-5-2" \
  "$(SLURM_JOB_NAME=a/b SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=2 failing_within config.toml | sed 's/.* //')"
[ "$failures" -eq 0 ]
