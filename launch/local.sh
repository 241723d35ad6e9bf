#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/run_to_end.sh"  # signals are noted from here on
# Trains with several workers on this machine: launch/local.sh [-n WORKERS] CONFIG [ARGUMENT...].
# Arguments after CONFIG go to `lockstep train`, e.g. --resume or --set optimizer.learning_rate=3e-4. Without -n there is
# one worker a processor core. TERM, Ctrl-C or a terminal that is closed: the run saves a checkpoint and ends with exit code 75.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() {
  echo "usage: launch/local.sh [-n WORKERS] CONFIG [ARGUMENT...]" >&2
  exit 2
}

# What Open MPI counts as slots, within what this process may use.
cores=$(lscpu -p=CORE,SOCKET | grep -v '^#' | sort -u | wc -l)
allowed=$(nproc)
[ "$cores" -le "$allowed" ] || cores=$allowed

workers=$cores
if [ "${1:-}" = -n ]; then
  [ "$#" -ge 2 ] || usage
  workers=$2
  shift 2
fi
[[ "$workers" =~ ^[1-9][0-9]*$ ]] || usage
[ "$#" -ge 1 ] || usage

command=$root/build/release/bin/lockstep
if [ ! -x "$command" ]; then
  echo "local: $command was not found; launch/build.sh builds it" >&2
  exit 2
fi

options=(-np "$workers")
# All on this host: the workers need not listen to a network.
case " ${!OMPI_MCA_*} " in
  *" OMPI_MCA_pml "* | *" OMPI_MCA_btl "*) ;;
  *) export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader ;;
esac
[ "$workers" -le "$cores" ] || options+=(--oversubscribe)
status=0
run_to_end "${options[@]}" "$command" train "$@" || status=$?
exit "$status"
