#!/usr/bin/env bash
# mpirun that lets a run end well: launch/mpirun.sh [MPIRUN OPTION...] PROGRAM [ARGUMENT...].
# On TERM, INT or USR1 the workers get SIGUSR1 instead, upon which they save a checkpoint and leave with exit code 75. (Open MPI
# 4.1 itself would kill them a second after TERM.) A second signal ends them at once.
set -euo pipefail

if ! command -v mpirun >/dev/null; then
  echo "mpirun was not found; launch/install_dependencies.sh installs it" >&2
  exit 2
fi

options=()
[ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)

# In a session of its own, so that Ctrl-C reaches this script only.
setsid mpirun "${options[@]}" "$@" </dev/null &
job=$!

signals=0
stop() {
  signals=$((signals + 1))
  if [ "$signals" -eq 1 ]; then
    echo "stopping: asking the workers to save and leave (once more to end them at once)" >&2
    kill -USR1 "$job" 2>/dev/null || true
  else
    kill -TERM "$job" 2>/dev/null || true
  fi
}
trap stop TERM INT USR1

# A signal interrupts wait: wait again until the job itself has ended.
while true; do
  before=$signals
  status=0
  wait "$job" || status=$?
  [ "$signals" -ne "$before" ] || exit "$status"
done
