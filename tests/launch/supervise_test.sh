#!/usr/bin/env bash
# launch/supervise.sh: which hosts it starts on, when it starts again and with what, and how it ends. (tests/hosts has real hosts.)
set -euo pipefail

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/launch" "$root/build/release/bin"
cp "$1/supervise.sh" "$1/run_to_end.sh" "$root/launch"
# Stands in for mpirun: ends with the next of the exit codes in the file $CODES; after "+" it leaves a checkpoint first, after
# "save" one comes later. Notes how many each start finds.
cat >"$root/bin/mpirun" <<'END'
#!/bin/bash
while [ "$1" != --hostfile ]; do shift; done
{ tr '\n' ',' <"$2"; echo " ${*:3}"; } | sed 's/ -np \([0-9]*\) .*lockstep train / \1: /' >>"$NOTES"
find "$OUTPUT" -name 'step-0*' 2>/dev/null | wc -l >>"$NOTES.found"
grep -sxc a "$NOTES.asked" >>"$NOTES.questions"
: >"$NOTES.asked"
read -r code <"$CODES"
sed -i 1d "$CODES"
if [ "$code" = save ]; then
  mkdir -p "$OUTPUT"
  setsid lockstep-saves </dev/null >/dev/null 2>&1 &
  until grep -qsx lockstep-saves "/proc/$!/comm"; do sleep 0.01; done
  exit 6
fi
if [[ $code = +* ]]; then : >"$OUTPUT/step-$(printf %09d "$(find "$OUTPUT" -name 'step-0*' | wc -l)").h5"; fi
configuration 3
if [ "$code" = grow ]; then
  touch "$ANSWERS/c"
  # bash cannot have a handler for a signal that it was started to ignore.
  exec perl -e '$SIG{USR1} = sub { exit 75 }; sleep 30; exit 1'
fi
if [ "$code" = lose ]; then
  rm "$ANSWERS/b"
  sleep 30
fi
exit "${code#+}"
END
# A checkpoint that workers still write after mpirun has ended.
cat >"$root/bin/lockstep-saves" <<'END'
#!/bin/bash
sleep 0.7
: >"$OUTPUT/step-$(printf %09d "$(find "$OUTPUT" -name 'step-0*' | wc -l)").h5"
END
# Stands in for ssh: hosts that are files in $ANSWERS answer.
cat >"$root/bin/ssh" <<'END'
#!/bin/bash
args=("$@")
host=${args[-2]} command=${args[-1]}
[ -e "$ANSWERS/$host" ] || { echo "ssh: connect to host $host: refused" >&2; exit 255; }
[ ! -s "$ANSWERS/$host" ] || exec sh -c "${command//release/elsewhere}"  # one without the checkout
case $command in *cat) ;; *) echo "$host" >>"$NOTES.asked" ;; esac
case $command in *cat) ;; *await_saves) exec sh -c "$command" ;; *) exit 0 ;; esac
echo up
while [ -e "$ANSWERS/$host" ] && kill -0 $PPID; do sleep 0.1; done
exit 255
END
printf '#!/bin/sh\n' >"$root/build/release/bin/lockstep"
chmod +x "$root/bin/mpirun" "$root/bin/lockstep-saves" "$root/bin/ssh" "$root/build/release/bin/lockstep"
# configuration N: what a run with N micro-batches leaves.
configuration() {
  printf '[run]\nmicro_batches = 1\n[train]\nsteps = 0\nmicro_batches = %d\n[log]\n' "$1" >"$OUTPUT/configuration.new"
  mv "$OUTPUT/configuration.new" "$OUTPUT/configuration.toml"
}
export -f configuration
export PATH=$root/bin:$PATH NOTES=$root/notes CODES=$root/codes OUTPUT="$root/out [1]" ANSWERS=$root/answers
printf '# hosts\na\n b slots=2 # two\n\nc\n' >"$root/hostfile"

source "$(dirname "${BASH_SOURCE[0]}")/../check.sh"
# started HOSTS CODES ARGUMENT...: starts with those hosts of a run that ends with these codes, and the last exit code.
started() {
  local codes=$2 code=0 host
  rm -rf "$OUTPUT" "$ANSWERS"
  mkdir "$OUTPUT" "$ANSWERS"
  : >"$OUTPUT/step-best.h5"  # a user's
  configuration 2            # an earlier run's
  for host in $1; do touch "$ANSWERS/$host"; done
  shift 2
  : >"$NOTES"
  rm -f "$NOTES.questions"
  : >"$NOTES.found"
  : >"$NOTES.asked"
  tr ' ' '\n' <<<"$codes" >"$CODES"
  timeout 60 "$root/launch/supervise.sh" "$@" >/dev/null 2>"$root/said" || code=$?
  echo "$(wc -l <"$NOTES") starts, $code"
}

run=("$root/hostfile" config.toml --output "$OUTPUT")
check "a run that fails once" "2 starts, 0" "$(started "a b c" "6 0" "${run[@]}")"
check "what its first start is given" "a slots=1,b slots=2,c slots=1, 4: config.toml --output $OUTPUT --resume=auto" "$(head -n 1 "$NOTES")"
check "hosts that do not answer" "1 starts, 0" "$(started "b" "0" --most 1 "${run[@]}")"
check "what the start is given" "b slots=2, 1: config.toml --output $OUTPUT --resume=auto" "$(cat "$NOTES")"
check "a run of 3 micro-batches that fails" "2 starts, 0" "$(started "a b c" "6 0" "${run[@]}")"
check "how many workers its starts have" "4 3" "$(sed 's/.*, \([0-9]*\): .*/\1/' "$NOTES" | paste -sd' ')"
check "a run with more micro-batches than an earlier one" "1 starts, 0" "$(started "a b c" "0" --fewest 4 "${run[@]}" --overwrite)"
for code in 2 3 4 5; do
  check "no other start after exit code $code" "1 starts, $code" "$(started "a" "$code 0" "${run[@]}")"
done
check "three starts without a checkpoint, not counting one that was asked to stop" "6 starts, 6" \
  "$(started "a" "6 +6 6 75 6 6 6 0" "${run[@]}")"
check "what it says then" 1 "$(grep -c "supervise: 3 starts in a row left no new checkpoint in" "$root/said")"
check "a run whose workers still write" "2 starts, 0" "$(started "a" "save 0" "${run[@]}")"
check "checkpoints that each start finds" "0 1" "$(paste -sd' ' "$NOTES.found")"
check "a run each of whose starts still writes a checkpoint" "5 starts, 0" "$(started "a" "save save save save 0" "${run[@]}")"
check "checkpoints that each start finds" "0 1 2 3 4" "$(paste -sd' ' "$NOTES.found")"
check "a run that is to begin anew" "3 starts, 0" "$(started "a" "6 +6 0" "${run[@]}" --overwrite)"
check "what its starts are given" "--overwrite --overwrite --resume=auto" "$(sed 's/.* //' "$NOTES" | paste -sd' ')"
check "a host that is lost and one that comes" "3 starts, 0" "$(started "a b" "lose grow 0" "${run[@]}")"
check "where it starts" "a slots=1,b slots=2, a slots=1, a slots=1,c slots=1," "$(sed 's/ [0-9]*: .*//' "$NOTES" | paste -sd' ')"
check "what it says" 2 "$(grep -cE 'b does not answer: ending the run|there are hosts for 2 workers instead of 1' "$root/said")"
# Connections take long: what writers have left and workers that must end, what they have left, after a failure; nobody writes after
# a run that has saved and left.
check "how often it asks a host before each start" "3 3 2" "$(paste -sd' ' "$NOTES.questions")"

# TERM while there is no host.
mkdir -p "$ANSWERS"
rm -f "$ANSWERS"/*
"$root/launch/supervise.sh" "${run[@]}" 2>"$root/said" &
job=$!
until grep -q 'waiting' "$root/said"; do sleep 0.1; done
kill -TERM "$job"
code=0
wait "$job" || code=$?
check "exit code of a stop without hosts" 75 "$code"
check "what it says of each host" "a b c" "$(sed -n 's/supervise: \(.\) does not answer: ssh: connect to host .: refused$/\1/p' "$root/said" | paste -sd' ')"

echo without >"$ANSWERS/a"
"$root/launch/supervise.sh" "${run[@]}" 2>"$root/said" &
job=$!
until grep -q 'waiting' "$root/said"; do sleep 0.1; done
kill -TERM "$job"
wait "$job" || true
check "what it says of a host without the checkout" 1 \
  "$(grep -c "supervise: a does not answer: there is no $root/build/elsewhere/bin/lockstep\$" "$root/said")"

check "without --output" "0 starts, 2" "$(started "a" "0" "$root/hostfile" config.toml)"
printf 'a\n-oProxyCommand=x\n' >"$root/hostfile"
check "a host that is an option" "0 starts, 2" "$(started "a" "0" "${run[@]}")"
printf 'a\na\n' >"$root/hostfile"
check "a host that is there twice" "0 starts, 2" "$(started "a" "0" "${run[@]}")"
[ "$failures" -eq 0 ]
