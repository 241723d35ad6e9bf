#!/usr/bin/env bash
# launch/supervise.sh keeps a run going through hosts that lose power, workers that die and hosts that come back, and its digest is that
# of an uninterrupted run: supervise_test.sh CHECKOUT COMMAND [--times]. Exit 77: no test hosts on this machine.
# --times: fails where it takes more than 20 s (power cut), 6 s (crash), 5 s (host back) until steps are trained again; for a machine
# that does nothing else.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
lockstep=$2
times=${3:-}
source "$here/training.sh"
hosts up 4  # h1 supervises
printf '# where to train\nh2\nh3 slots=1\n  h4 slots = 1\n' >"$work/hostfile"
log=$work/supervise.log
# supervise STEPS ARGUMENT...
supervise() {
  hosts run h1 launch/supervise.sh --most 3 "$work/hostfile" "${settings[@]}" --set train.epochs=0 --set "train.steps=$1" \
    --set train.log_every=10 --output "${output:-$work/many}" "${@:2}" >>"$log" 2>&1
}
starts=0
now() { echo $(($(date +%s%N) / 1000000)); }
# again SECONDS WHAT WORKERS: waits until that many workers have trained steps, since a start after those that were counted.
again() {
  local begin
  begin=$(now)
  until awk -v before="$starts" -v workers="$3" '/^supervise: starting/ { steps = 0; good = ++starts > before && $3 == workers }
      /^step / { steps += good } END { exit !steps }' "$log"; do
    kill -0 "$job" 2>/dev/null || { check "$2" "goes on" "ended"; finish; }
    [ $(($(now) - begin)) -lt 90000 ] || { check "$2" "$3 workers train" "not within 90 s"; finish; }
    sleep 0.05
  done
  starts=$(grep -c '^supervise: starting' "$log")
  echo "$2: $3 workers train after $(($(now) - begin)) ms"
  [ "$times" != --times ] || [ $(($(now) - begin)) -le "$1"000 ] || check "$2" "at most $1 s" "$(($(now) - begin)) ms"
}

supervise 1000000 &
job=$!
again 90 "the first start" 3
checkpointed many "$job"
hosts off h3
again 20 "a power cut" 2
hosts run h4 pkill -KILL -x lockstep
again 6 "a worker that is killed" 2
sleep 6  # one that has trained for a while is interrupted
hosts boot h3
again 5 "a host that is back" 3
hosts run h1 pkill -TERM -of launch/supervise.sh
code=0
wait "$job" || code=$?
check "exit code after TERM" 75 "$code"

# It ends with the run.
newest=$(find "$work/many" -name 'step-*.h5' | sort | tail -n 1)
steps=$((10#$(basename "$newest" .h5 | cut -d- -f2) + 100))
supervise "$steps" || check "exit code at the end" 0 "$?"
"$lockstep" train "${settings[@]}" --set train.epochs=0 --set "train.steps=$steps" --output "$work/one" >/dev/null 2>&1
check "digest after all this" "$(digest one)" "$(digest many)"

# A directory of each host's own: with rank 0's host its disk is lost, and of the run at most one step.
log=$work/apart.log output=/run/tmp/own starts=0
newest_on() { hosts run "$1" sh -c "ls $output/step-*.h5 2>/dev/null | tail -n 1"; }
supervise 1000000 --set checkpoint.replicas=1 --set checkpoint.recovery_point=true &
job=$!
again 90 "the first start" 3
until [ -n "$(newest_on h3)" ]; do
  kill -0 "$job" || { failures=1; finish; }
  sleep 0.1
done
hosts off h2
again 20 "a power cut of rank 0's host" 2
check "who has the newest step" 1 "$(grep -cE 'others are lost: the state of step [0-9]+ is in .* on host h3' "$log")"
check "that the run goes on from it" "$(sed -nE 's/.*others are lost: the state of step ([0-9]+) is in .* on host h3/\1/p' "$log")" \
  "$(sed -nE 's/^resumed from .* on host h3 at step ([0-9]+)$/\1/p' "$log")"
hosts run h1 pkill -TERM -of launch/supervise.sh
code=0
wait "$job" || code=$?
check "exit code after TERM" 75 "$code"
newest=$(newest_on h3)
"$lockstep" train "${settings[@]}" --set train.epochs=0 --set "train.steps=$((10#$(basename "$newest" .h5 | cut -d- -f2)))" \
  --output "$work/straight" >/dev/null 2>&1
check "digest after all this" "$(digest straight)" "$(hosts run h3 "$lockstep" inspect --digest "$newest")"
for host in h1 h3 h4; do check "what is left on $host" "" "$(left "$host")"; done
finish
