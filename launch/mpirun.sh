#!/usr/bin/env bash
# mpirun that lets a run end well: launch/mpirun.sh [MPIRUN OPTION...] PROGRAM [ARGUMENT...].
# On TERM, INT, USR1 or HUP the workers save a checkpoint and leave with exit code 75. More of them change nothing, but for
# Ctrl-C twice, which ends the workers at once.
{
source "$(dirname "${BASH_SOURCE[0]}")/run_to_end.sh"  # signals are noted from here on
set -euo pipefail

status=0
run_to_end "$@" || status=$?
end_with "$status"
}
