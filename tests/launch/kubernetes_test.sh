#!/usr/bin/env bash
# The launcher of Kubernetes' MPI operator: what it starts, when again, and what the next pod of a job makes of it; and the manifest has
# only fields that the operator and Kubernetes have (where python3 has yaml).
set -euo pipefail

launch=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/launch" "$root/build/release/bin"
cp "$launch/kubernetes.sh" "$launch/run_to_end.sh" "$root/launch"
# Stands in for mpirun: ends with the next of the exit codes in the file $CODES; after "+" it leaves a checkpoint first, after
# "save" one comes later, after "save-there" from a worker's pod. Notes how many each start finds.
cat >"$root/bin/mpirun" <<'END'
#!/bin/bash
echo "$*" | sed 's/--allow-run-as-root //; s/ *[^ ]*lockstep train /train /' >>"$NOTES"
find "$OUTPUT" -name 'step-0*' 2>/dev/null | wc -l >>"$NOTES.found"
read -r code <"$CODES"
sed -i 1d "$CODES"
if [[ $code = save* ]]; then
  mkdir -p "$OUTPUT"
  writer=lockstep-saves
  [ "$code" = save ] || writer=other-pod
  setsid "$writer" </dev/null >/dev/null 2>&1 &
  until grep -qsx "$writer" "/proc/$!/comm"; do sleep 0.01; done
  exit 6
fi
if [[ $code = +* ]]; then mkdir -p "$OUTPUT" && : >"$OUTPUT/step-$(printf %09d "$(find "$OUTPUT" -name 'step-0*' | wc -l)").h5"; fi
exit "${code#+}"
END
# A checkpoint that workers still write after mpirun has ended.
cat >"$root/bin/lockstep-saves" <<'END'
#!/bin/bash
sleep 0.7
: >"$OUTPUT/step-$(printf %09d "$(find "$OUTPUT" -name 'step-0*' | wc -l)").h5"
END
ln -s lockstep-saves "$root/bin/other-pod"
# Stands in for ssh: the writer in a pod is seen from there alone, and another pod is gone.
cat >"$root/bin/ssh" <<'END'
#!/bin/bash
args=("$@")
[ "${args[-2]}" = job-worker-1.job ] || exit 255
exec sh -c "${args[-1]//lockstep-saves/other-pod}"
END
printf '#!/bin/sh\n' >"$root/build/release/bin/lockstep"
chmod +x "$root/bin/mpirun" "$root/bin/lockstep-saves" "$root/bin/ssh" "$root/build/release/bin/lockstep"
printf 'job-worker-0.job slots=1\njob-worker-1.job slots=1\n' >"$root/hostfile"
export PATH=$root/bin:$PATH NOTES=$root/notes CODES=$root/codes OUTPUT=$root/out OMPI_MCA_orte_default_hostfile=$root/hostfile

source "$(dirname "${BASH_SOURCE[0]}")/../check.sh"
# pod UID CODES [ARGUMENT...]: starts within a pod of that job whose runs end with these codes, and its exit code.
arguments=(config.toml --output "$OUTPUT")
pod() {
  local code=0
  : >"$NOTES"
  : >"$NOTES.found"
  tr ' ' '\n' <<<"$2" >"$CODES"
  JOB_UID=$1 "$root/launch/kubernetes.sh" "${arguments[@]}" "${@:3}" >/dev/null 2>&1 || code=$?
  echo "$(wc -l <"$NOTES") starts, $code"
}
# The user's own alone is waited for.
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
  others=$(mktemp -d)
  chmod 755 "$others"
  cp "$(command -v sleep)" "$others/lockstep-saves"
  setpriv --reuid=65534 --clear-groups "$others/lockstep-saves" 60 &
  until grep -qsx lockstep-saves "/proc/$!/comm"; do sleep 0.01; done
  check "what another user's run still writes" "not waited for" \
    "$(timeout -s KILL 5 bash -c 'source "$1"; await_saves; echo not waited for' bash "$root/launch/run_to_end.sh")"
  check "the same on another host" "not waited for" \
    "$(timeout -s KILL 5 sh -c "$(source "$root/launch/run_to_end.sh"; declare -f await_saves); await_saves; echo not waited for")"
  kill "$!"
  rm -r "$others"
else
  echo "not tried: what another user's run still writes (needs root and setpriv)"
fi

check "a run that fails once" "2 starts, 0" "$(pod a "6 0")"
check "what its starts are given" "train config.toml --output $OUTPUT --resume=auto" "$(sort -u "$NOTES")"
check "a run that saves and leaves" "1 starts, 75" "$(pod a "75 0")"
check "the pod that replaces it" "2 starts, 0" "$(pod a "+6 0")"
check "a run that diverges" "1 starts, 5" "$(pod a "5 0")"
check "the pod that replaces it" "0 starts, 5" "$(pod a "0")"
check "a pod of the next job" "3 starts, 6" "$(pod b "6 6 6 0")"
check "the pod that replaces it" "0 starts, 6" "$(pod b "0")"
rm -rf "$OUTPUT"
check "runs whose workers still write" "4 starts, 0" "$(pod c "save save save 0")"
check "checkpoints that each start finds" "0 1 2 3" "$(paste -sd' ' "$NOTES.found")"
rm -rf "$OUTPUT"
check "runs whose workers in other pods still write" "4 starts, 0" "$(pod g "save-there save-there save-there 0")"
check "checkpoints that each start finds" "0 1 2 3" "$(paste -sd' ' "$NOTES.found")"
begins() { sed 's/.* //' "$NOTES" | paste -sd' '; }
check "a run that is to begin anew" "2 starts, 75" "$(pod d "6 75" --overwrite)"
check "how its starts begin" "--overwrite --overwrite" "$(begins)"
check "the pod that replaces it" "3 starts, 75" "$(pod d "6 +6 75" --overwrite)"
check "how its starts begin" "--overwrite --overwrite --resume=auto" "$(begins)"
check "the pod that replaces that" "1 starts, 0" "$(pod d "0" --overwrite)"
check "how its start begins" "--resume=auto" "$(begins)"
for job in e ''; do
  check "a job of its own" "2 starts, 0" "$(pod "$job" "+6 0" --overwrite)"
  check "how its starts begin" "--overwrite --resume=auto" "$(begins)"
done
arguments=(config.toml "--output=$OUTPUT")
check "the directory behind =" "2 starts, 0" "$(pod f "6 0")"
check "what its starts are given" "train config.toml --output=$OUTPUT --resume=auto" "$(sort -u "$NOTES")"
if python3 -c 'import yaml' 2>/dev/null; then
  python3 "$(dirname "$0")/kubernetes_manifest.py" "$launch/kubernetes.yaml" || failures=$((failures + 1))
else
  echo "the manifest is not looked at: python3 has no yaml (python3-yaml)"
fi
[ "$failures" -eq 0 ]
