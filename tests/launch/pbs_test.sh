#!/usr/bin/env bash
# The job script for PBS that launch/README.md shows: it is put into the queue again when the run has stopped by itself, and not when PBS
# ends it, which sends TERM to every process of the job; nor is the run's end cut short then.
set -euo pipefail

launch=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/bin" "$root/launch"
cp "$launch/run_to_end.sh" "$launch/mpirun.sh" "$root/launch"
cp "$(dirname "$0")/mpirun_standin" "$root/bin/mpirun"
# shellcheck disable=SC2016  # expanded when it runs
printf '#!/bin/sh\necho "qsub $*" >>"$NOTES"\n' >"$root/bin/qsub"
chmod +x "$root/bin/qsub"
: >"$root/nodes"
# shellcheck disable=SC2016  # expanded when it runs
sed -n '/^#PBS/,/^```/{/^```/d;s/ train CONFIG.*/ $HOW/;p}' "$launch/README.md" >"$root/job"
export PATH=$root/bin:$PATH NOTES=$root/notes PBS_O_WORKDIR=$root PBS_NODEFILE=$root/nodes HOW

source "$(dirname "${BASH_SOURCE[0]}")/../check.sh"
# job HOW [SIGNAL]: the exit code of a job whose mpirun behaves that way; all of its processes get the signal once that runs.
job() {
  local code=0
  HOW=$1
  : >"$NOTES"
  setsid bash "$root/job" >/dev/null 2>&1 &
  local job=$!
  if [ "$#" -gt 1 ]; then
    until grep -q ready "$NOTES"; do sleep 0.05; done
    kill -"$2" -- "-$job"
  fi
  wait "$job" || code=$?
  echo "$code"
}

check "exit code of a run that has stopped by itself" 75 "$(job "exit 75")"
check "what happens then" "qsub $root/job" "$(cat "$NOTES")"
for code in 0 3 6; do
  check "exit code of a run that ends with $code" "$code" "$(job "exit $code")"
  check "what happens then" "" "$(cat "$NOTES")"
done
check "exit code of a job that PBS ends" 75 "$(job slow TERM)"
check "what happens then" "USR1 ready" "$(LC_ALL=C sort -u "$NOTES" | paste -sd' ')"
[ "$failures" -eq 0 ]
