#!/usr/bin/env bash
# The mpirun wrapper hands on exit codes, turns the first TERM into SIGUSR1 and the second into TERM.
set -euo pipefail

wrapper=$1/mpirun.sh
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT

# Stands in for mpirun: writes down signals; ends with 75 a moment after SIGUSR1 unless told to be stubborn.
cat >"$bin/mpirun" <<'STANDIN'
#!/usr/bin/env bash
case "$*" in *"exit "*) exit "${*: -1}" ;; esac
stubborn=$([[ "$*" == *stubborn* ]] && echo 1 || echo 0)
asked=0
trap 'echo USR1 >>"$NOTES"; asked=1' USR1
trap 'echo TERM >>"$NOTES"; exit 143' TERM
echo ready >>"$NOTES"
for ((i = 0; i < 300; ++i)); do
  sleep 0.1
  if [ "$asked" -eq 1 ] && [ "$stubborn" -eq 0 ]; then exit 75; fi
done
STANDIN
chmod +x "$bin/mpirun"
export PATH=$bin:$PATH NOTES=$bin/notes

failures=0
check() {
  if [ "$2" != "$3" ]; then
    printf '%s: expected %s, got %s\n' "$1" "$2" "$3" >&2
    failures=$((failures + 1))
  fi
}
# noted LINES: waits until the stand-in has written that many lines.
noted() {
  for ((i = 0; i < 200; ++i)); do
    [ "$(wc -l <"$NOTES")" -lt "$1" ] || return 0
    sleep 0.05
  done
  echo "the stand-in did not get as far as line $1" >&2
  exit 1
}

code=0
"$wrapper" exit 3 || code=$?
check "exit code of the job" 3 "$code"
"$wrapper" exit 0

: >"$NOTES"
"$wrapper" -np 2 program 2>/dev/null &
job=$!
noted 1
kill -TERM "$job"
code=0
wait "$job" || code=$?
check "exit code after one TERM" 75 "$code"
check "signals after one TERM" "ready USR1 " "$(tr '\n' ' ' <"$NOTES")"

: >"$NOTES"
"$wrapper" -np 2 stubborn 2>/dev/null &
job=$!
noted 1
kill -TERM "$job"
noted 2
kill -TERM "$job"
code=0
wait "$job" || code=$?
check "exit code after two TERMs" 143 "$code"
check "signals after two TERMs" "ready USR1 TERM " "$(tr '\n' ' ' <"$NOTES")"
[ "$failures" -eq 0 ]
