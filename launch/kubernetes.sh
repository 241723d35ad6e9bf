#!/usr/bin/env bash
# What the launcher's pod of kubernetes.yaml runs: launch/kubernetes.sh CONFIG --output DIR [ARGUMENT...]. One worker a slot of the
# operator's hostfile; --resume=auto, with --overwrite from the job's first checkpoint on; a run that fails starts again while that is
# of use. A pod that replaces one of the same job ($JOB_UID) that another start would not have helped (exit codes 2 to 5, or three
# starts without a new checkpoint) ends like it at once: Kubernetes itself knows only that it failed.
{
source "$(dirname "${BASH_SOURCE[0]}")/run_to_end.sh"  # signals are noted from here on
set -euo pipefail

train_arguments "$@"
if [ -z "$output" ]; then
  echo "usage: launch/kubernetes.sh CONFIG --output DIR [ARGUMENT...]" >&2
  exit 2
fi

verdict=$output.ended.${JOB_UID:-}
if [ -n "${JOB_UID:-}" ] && [ -s "$verdict" ]; then
  read -r status <"$verdict"
  echo "kubernetes: an earlier pod of this job has ended with exit code $status, and another start does not help" >&2
  exit "$status"
fi
# Workers have pods of their own.
pods() { sed -E 's/[[:space:]#].*//; /^$/d' "${OMPI_MCA_orte_default_hostfile:-/dev/null}" 2>/dev/null || true; }

origin='' remembered=/dev/null
[ -z "${JOB_UID:-}" ] || remembered=$output.origin.$JOB_UID
[ "$begin" != --overwrite ] || origin_of_job "$remembered" "$output" || end_with 4
while true; do
  if begun "$output" "$origin"; then begin=--resume=auto; fi
  newest_checkpoint "$output"
  status=0 before=$newest
  run_to_end "$root/build/release/bin/lockstep" train "${arguments[@]}" "$begin" || status=$?
  if [ "$status" -eq 0 ] || [ "$status" -eq 75 ] || [ "$stops" -gt 0 ]; then break; fi
  if worth_another_start "$status"; then
    await_saves
    pods | mapfile -t workers
    await_saves_on "${workers[@]}"
  fi
  if ! worth_another_start "$status" || ! got_further kubernetes "$output" "$before"; then
    [ -z "${JOB_UID:-}" ] || (mkdir -p "$(dirname "$output")" && echo "$status" >"$verdict") || true
    break
  fi
  echo "kubernetes: the run ended with exit code $status: starting it again" >&2
done
end_with "$status"
}
