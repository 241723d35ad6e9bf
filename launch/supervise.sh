#!/usr/bin/env bash
# Keeps a run going on whatever hosts there are: launch/supervise.sh [OPTION...] HOSTFILE CONFIG --output DIR [ARGUMENT...].
# HOSTFILE has a line a host: its name, and `slots=N` where it takes more than one worker. Needs SSH without passwords to all of
# them, this checkout and DIR at the same paths, and a host of its own, which may be lost least: a login node. DIR is shared, or
# with checkpoint.replicas a directory of its own on each host.
#   - starts on the hosts that answer, with --resume=auto; arguments after CONFIG go to `lockstep train`
#   - a run that fails, or loses a host, is started again from its newest checkpoint on the hosts that are left, unless that is of
#     no use (exit codes 2 to 5) or three starts in a row have left no new checkpoint
#   - when a host comes (back), the run saves, leaves and is started again with it
#   - TERM, Ctrl-C, USR1, HUP: the run saves and ends with exit code 75
#   --fewest N   waits until there are hosts for that many workers (default 1)
#   --most N     starts no more workers than that; a run that this has started once gets at most one a micro-batch
{
source "$(dirname "${BASH_SOURCE[0]}")/run_to_end.sh"  # signals are noted from here on
set -euo pipefail

usage() {
  echo "usage: launch/supervise.sh [--fewest N] [--most N] HOSTFILE CONFIG --output DIR [ARGUMENT...]" >&2
  exit 2
}
say() { echo "supervise: $*" >&2; }

fewest=1 most=1000000
while [ "${1:-}" = --fewest ] || [ "${1:-}" = --most ]; do
  [[ "${2:-}" =~ ^[1-9][0-9]{0,5}$ ]] || usage
  if [ "$1" = --fewest ]; then fewest=$2; else most=$2; fi
  shift 2
done
if [ "$#" -lt 2 ] || [ "$fewest" -gt "$most" ]; then usage; fi
hostfile=$1
shift

train_arguments "$@"
if [ -z "$output" ]; then
  echo "supervise: --output DIR is needed: its checkpoints tell whether a start got further" >&2
  exit 2
fi
case $output in /*) ;; *) output=$PWD/$output ;; esac  # other hosts are asked for it too
command=$root/build/release/bin/lockstep
if [ ! -x "$command" ]; then
  echo "supervise: $command was not found; launch/build.sh builds it" >&2
  exit 2
fi

# The hosts, once each and in the order of the file.
hosts=()
declare -A slots=()
if [ ! -f "$hostfile" ] || [ ! -r "$hostfile" ]; then
  echo "supervise: $hostfile: no file that can be read" >&2
  exit 2
fi
while read -r host rest || [ -n "$host" ]; do
  case $host in '' | '#'*) continue ;; esac
  # A name that begins with - would be an option of ssh.
  if [[ ! "$host" =~ ^[A-Za-z0-9_][A-Za-z0-9_.:-]*$ ]] || [ -n "${slots[$host]:-}" ]; then
    echo "supervise: $hostfile: '$host' is no name of a host, or is there twice" >&2
    exit 2
  fi
  slots[$host]=1
  if [[ " $rest" =~ [[:space:]]slots[[:space:]]*=[[:space:]]*([1-9][0-9]{0,4}) ]]; then slots[$host]=${BASH_REMATCH[1]}; fi
  hosts+=("$host")
done <"$hostfile"
[ "${#hosts[@]}" -gt 0 ] || { echo "supervise: $hostfile names no host" >&2; exit 2; }

work=''
mktemp -d | read -r work || { echo "supervise: no directory could be made in ${TMPDIR:-/tmp}" >&2; exit 4; }
watchers=()
token=lockstep-$$-$RANDOM$RANDOM  # Open MPI hands it on to its daemons and all workers, so that they can be told from others
mkfifo "$work/nothing"
exec {nothing}<>"$work/nothing"  # never anything to read; at its end when this script is

# end CODE: the last thing that this script does.
end() {
  local watcher
  trap '' TERM INT USR1 HUP
  for watcher in "${watchers[@]}"; do kill "$watcher" 2>/dev/null || true; done
  wait
  rm -rf "$work"
  exit "$1"
}

# While this machine has a connection to HOST on which both sides answer within six seconds, the file up.HOST is not empty; why.HOST
# is what was said by the newest that could not be made, or has ended.
watch() {
  local host=$1 connection=0 second quoted
  printf -v quoted %q "$command"
  trap 'kill "$connection" 2>/dev/null; exit 0' TERM
  trap '' INT USR1 HUP
  exec {nothing}>&-
  while minded; do
    "${ssh[@]}" -o ServerAliveInterval=2 -o ServerAliveCountMax=2 "$host" \
      "{ test -x $quoted || { echo there is no $quoted >&2; exit 1; }; } && echo up && exec cat" \
      <"$work/nothing" >"$work/up.$host" 2>"$work/said.$host" &
    connection=$!
    echo "$connection" >"$work/connection.$host"
    for ((second = 0; second < 10; ++second)); do
      sleep 1 &
      wait $! || true
      if [ -s "$work/up.$host" ] || ! kill -0 "$connection" 2>/dev/null; then break; fi
    done
    [ -s "$work/up.$host" ] || kill "$connection" 2>/dev/null || true  # one that stops answering while it is asked who it is
    wait "$connection" || true
    rm -f "$work/up.$host"
    mv -f "$work/said.$host" "$work/why.$host" 2>/dev/null || true
  done
}

# Which file configuration.toml is, into `written`. Each start replaces it; which one is newer, clocks of other hosts may tell wrongly.
configuration_mark() {
  written=''
  find -H "$output" -maxdepth 1 -name configuration.toml -printf '%i %T@' 2>/dev/null | read -r written || true
}
configuration_mark
earlier=$written  # of a run of before, which may have had other micro-batches

# look [ENOUGH]: the hosts that answer; into the array `answering`, the number of workers that they take into `places`: no more than
# the run has micro-batches, once a start of it has said so, which need not be looked for where there are no more than ENOUGH.
look() {
  local host shares
  answering=() places=0
  for host in "${hosts[@]}"; do
    [ -s "$work/up.$host" ] || continue
    answering+=("$host")
    places=$((places + slots[$host]))
  done
  [ "$places" -le "$most" ] || places=$most
  [ "$places" -gt "${1:-0}" ] || return 0
  configuration_mark
  [ "$written" != "$earlier" ] || return 0
  shares=''
  sed -n '/^\[train\]$/,/^\[/s/^micro_batches = \([0-9]\{1,9\}\)$/\1/p' "$output/configuration.toml" 2>/dev/null | read -r shares || true
  [ -z "$shares" ] || [ "$places" -le "$shares" ] || places=$shares
}

# Says of each host that does not answer what there is to know.
say_why() {
  local host why
  for host in "${hosts[@]}"; do
    [ ! -s "$work/up.$host" ] || continue
    why=''
    { tail -n 1 "$work/why.$host" 2>/dev/null | tr -d '\r' | IFS= read -r why; } || true
    say "$host does not answer${why:+: $why}"
  done
}

# Ends what an earlier start has left on the hosts that answer: no second run may be under way when the next one starts. A host that
# does not do that within three seconds does not answer.
sweep() {
  local host sweepers=()
  for host in "${answering[@]}"; do
    # The brackets: it must not find itself.
    { timeout 3 "${ssh[@]}" -n "$host" "grep -lsa '[${token:0:1}]${token:1}' /proc/[0-9]*/cmdline /proc/[0-9]*/environ |
        cut -d/ -f3 | xargs -r kill -KILL; true" >/dev/null 2>&1 ||
      { rm -f "$work/up.$host" && kill "$(cat "$work/connection.$host")"; } 2>/dev/null || true; } &
    sweepers+=("$!")
  done
  for host in "${sweepers[@]}"; do wait "$host" || true; done
}

# On this machine and on the hosts that answer, each of which may have a directory of its own (checkpoint.replicas).
find_checkpoints() {
  local host asked=() look
  printf -v look '%q ' find -H "$1" "${checkpoints[@]}" -printf "$2"
  bash -c "$look" 2>/dev/null || true
  for host in "${answering[@]}"; do
    timeout 3 "${ssh[@]}" -n "$host" "$look" >"$work/found.$host" 2>/dev/null &
    asked+=("$!")
  done
  for host in "${asked[@]}"; do wait "$host" || true; done
  for host in "${answering[@]}"; do cat "$work/found.$host"; done
}

# Beside mpirun: ends a run that has lost a host, and lets one save and leave for which there are more hosts.
watch_run() {
  local mpirun=$1 begin=$SECONDS host
  while sleep 0.5 && minded; do
    for host in "${used[@]}"; do
      [ ! -s "$work/up.$host" ] || continue
      say "$host does not answer: ending the run"
      : >"$work/lost"
      # The others write what they have (checkpoint.recovery_point); those that have nothing to write end.
      kill -USR2 "$mpirun" 2>/dev/null || true
      sleep 1
      kill -KILL "$mpirun"
      return 0
    done
    if [ -e "$work/grown" ]; then
      kill -USR1 "$mpirun" 2>/dev/null || true  # again and again: while workers start, one is easily lost
      continue
    fi
    # Not in its first seconds: a host that comes and goes must not keep the others from training.
    [ $((SECONDS - begin)) -ge 5 ] || continue
    look "$workers"
    [ "$places" -gt "$workers" ] || continue
    say "there are hosts for $places workers instead of $workers: asking the run to save and leave"
    : >"$work/grown"
  done
}

for host in "${hosts[@]}"; do
  watch "$host" &
  watchers+=("$!")
done
sleep 1 || true
beside=watch_run waited=0 status=75
failed=''  # the exit code of a start whose checkpoints are still to be looked for, once they are written
while [ "$stops" -eq 0 ]; do
  look
  if [ "$places" -ge "$fewest" ]; then
    # Each look at other hosts takes a while. After a run that has saved and left nobody still writes.
    if [ -n "$failed" ] || [ -z "${before+known}" ]; then await_saves_on "${answering[@]}"; fi
    sweep
    look
  fi
  if [ "$places" -lt "$fewest" ]; then
    waited=$((waited + 1)) status=75
    if [ "$waited" -eq 5 ]; then
      say_why
      say "there are hosts for $places workers, $fewest are needed: waiting"
    fi
    sleep 1 || true
    continue
  fi
  waited=0
  if [ -z "$failed" ]; then
    newest_checkpoint "$output"
  else
    got_further supervise "$output" "$before" || end "$failed"  # which looks for it too
  fi
  before=$newest failed=''
  used=("${answering[@]}") workers=$places
  for host in "${used[@]}"; do echo "$host slots=${slots[$host]}"; done >"$work/hostfile"
  rm -f "$work/lost" "$work/grown"
  if [ "$begin" = --overwrite ]; then
    if [ -z "${origin+known}" ]; then  # before the first start
      checkpoint_mark "$output"
      origin=$newest
    fi
    if begun "$output" "$origin"; then begin=--resume=auto; fi
  fi
  say "starting $workers workers on ${used[*]}${before:+, from ${before##*/}}"
  status=0
  OMPI_MCA_lockstep_run=$token run_to_end --hostfile "$work/hostfile" -np "$workers" "$command" train "${arguments[@]}" "$begin" ||
    status=$?
  [ "$stops" -eq 0 ] || break
  if [ -e "$work/grown" ] && { [ "$status" -eq 75 ] || [ "$status" -eq 138 ]; }; then continue; fi
  if [ ! -e "$work/lost" ]; then worth_another_start "$status" || end "$status"; fi
  say "the run ended with exit code $status"
  [ "$status" -eq 75 ] || failed=$status
done
end "$status"
}
