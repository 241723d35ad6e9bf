#!/usr/bin/env bash
# launch/local.sh --restarts starts a run that fails again from its newest checkpoint, while that is of use.
set -euo pipefail

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/launch" "$root/build/release/bin"
cp "$1/local.sh" "$1/run_to_end.sh" "$root/launch"
# Stands in for mpirun: ends with the next of the exit codes in the file $CODES; after "+" it leaves a checkpoint first, after
# "save" one comes later. Notes how many each start finds.
cat >"$root/bin/mpirun" <<'END'
#!/bin/bash
echo "${*#*bin/lockstep }" | sed 's/.*lockstep train //' >>"$NOTES"
find "$OUTPUT" -name 'step-0*' 2>/dev/null | wc -l >>"$NOTES.found"
read -r code <"$CODES"
sed -i 1d "$CODES"
if [ "$code" = save ]; then
  mkdir -p "$OUTPUT"
  setsid lockstep-saves </dev/null >/dev/null 2>&1 &
  until grep -qsx lockstep-saves "/proc/$!/comm"; do sleep 0.01; done
  exit 6
fi
if [[ $code = +* ]]; then : >"$OUTPUT/step-$(printf %09d "$(find "$OUTPUT" -name 'step-0*' | wc -l)").h5"; fi
exit "${code#+}"
END
# A checkpoint that workers still write after mpirun has ended.
cat >"$root/bin/lockstep-saves" <<'END'
#!/bin/bash
sleep 0.7
: >"$OUTPUT/step-$(printf %09d "$(find "$OUTPUT" -name 'step-0*' | wc -l)").h5"
END
printf '#!/bin/sh\n' >"$root/build/release/bin/lockstep"
chmod +x "$root/bin/mpirun" "$root/bin/lockstep-saves" "$root/build/release/bin/lockstep"
export PATH=$root/bin:$PATH NOTES=$root/notes CODES=$root/codes OUTPUT="$root/out [1]"

source "$(dirname "${BASH_SOURCE[0]}")/../check.sh"
# started CODES ARGUMENT...: starts of a run that ends with these codes, one after the other, and the last exit code.
started() {
  local codes=$1 code=0
  shift
  rm -rf "$OUTPUT"
  mkdir "$OUTPUT"
  : >"$OUTPUT/step-best.h5"  # a user's
  : >"$NOTES"
  : >"$NOTES.found"
  tr ' ' '\n' <<<"$codes" >"$CODES"
  "$root/launch/local.sh" -n 1 "$@" >/dev/null 2>"$root/said" || code=$?
  echo "$(wc -l <"$NOTES") starts, $code"
}

out=(config.toml --output "$OUTPUT")
check "without --restarts" "1 starts, 6" "$(started "6 0" "${out[@]}")"
check "a run that fails once" "2 starts, 0" "$(started "6 0" --restarts 5 "${out[@]}")"
check "what its starts are given" "config.toml --output $OUTPUT --resume=auto" "$(sort -u "$NOTES")"
check "no more restarts than asked for" "3 starts, 137" "$(started "+6 +6 +137 0" --restarts 2 "${out[@]}")"
check "three starts without a checkpoint" "3 starts, 6" "$(started "6 6 6 0" --restarts 9 "${out[@]}")"
check "what it says then" 1 "$(grep -c "3 starts in a row left no new checkpoint in" "$root/said")"
check "a checkpoint in between" "6 starts, 0" "$(started "6 6 +6 6 6 0" --restarts 9 "${out[@]}")"
check "runs whose workers still write" "4 starts, 0" "$(started "save save save 0" --restarts 9 "${out[@]}")"
check "checkpoints that each start finds" "0 1 2 3" "$(paste -sd' ' "$NOTES.found")"
for code in 2 3 4 5 75; do
  check "no other start after exit code $code" "1 starts, $code" "$(started "$code 0" --restarts 9 "${out[@]}")"
done
check "a run that is to begin anew" "3 starts, 0" "$(started "6 +6 0" --restarts 9 config.toml --overwrite "--output=$OUTPUT")"
anew="config.toml --overwrite --output=$OUTPUT"
check "what its starts are given" "$anew|$anew|config.toml --output=$OUTPUT --resume=auto" "$(paste -sd'|' "$NOTES")"
check "without --output" "0 starts, 2" "$(started "6 0" --restarts 9 config.toml)"
check "what it says then" 1 "$(grep -c -- '--restarts needs --output DIR' "$root/said")"
check "a number that is none" "0 starts, 2" "$(started "6 0" --restarts many "${out[@]}")"
[ "$failures" -eq 0 ]
