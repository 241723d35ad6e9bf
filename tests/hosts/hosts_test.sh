#!/usr/bin/env bash
# Training over several hosts: hosts_test.sh CHECKOUT COMMAND [--long]. The bits are those of one process; whatever happens to a
# host, the run ends soon with an exit code that says so, leaves nothing behind, and goes on from its newest checkpoint on others.
# Exit 77: no test hosts on this machine. --long: more of what can happen.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
lockstep=$2
source "$here/training.sh"
hosts up 3
for host in h1 h2 h3; do hosts bridge "$host"; done  # the same address on each

# train HOSTS OUTPUT ARGUMENT...: started from h1.
train() {
  local list=$1 output=$2
  shift 2
  hosts run h1 env LOCKSTEP_SILENCE=3 launch/mpirun.sh --host "$list" \
    "$lockstep" train "${settings[@]}" --output "$work/$output" "$@" >>"$work/$output.log" 2>&1
}
# happens HOSTS OUTPUT ARGUMENT... -- COMMAND...: that to hosts.sh, once such a training has a checkpoint; `code` is then its exit code,
# and "late" of one that had not ended 30 seconds later.
happens() {
  local arguments=() job begin
  while [ "$1" != -- ]; do
    arguments+=("$1")
    shift
  done
  shift
  train "${arguments[@]}" &
  job=$!
  checkpointed "${arguments[1]}" "$job"
  hosts "$@"
  begin=$SECONDS
  while kill -0 "$job" 2>/dev/null && [ $((SECONDS - begin)) -lt 30 ]; do sleep 0.1; done
  code=late
  if kill -0 "$job" 2>/dev/null; then
    hosts clean h1
    wait "$job" || true
  else
    code=0
    wait "$job" || code=$?
  fi
  echo "$*: after $((SECONDS - begin)) s"
}

begin=$SECONDS
"$lockstep" train "${settings[@]}" --output "$work/one" >/dev/null 2>&1
train h1:1,h2:1 two
check "digest over two hosts" "$(digest one)" "$(digest two)"

# The bytes that a host sends for a step do not depend on the number of its workers: one gradient of 64-1024-1024-10 in fp32, and what
# TCP adds to it. Measured as the difference of a long and a short run. Ranks that take turns have no neighbours.
large=(--set 'model.hidden=[1024,1024]' --set train.micro_batches=8 --set train.micro_batch_size=8 --set checkpoint.every=0)
large+=(--set train.epochs=0 --set device.threads=1 --set train.evaluate_every=0)
gradient=$(((64 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10) * 4))
sent() { hosts run h1 cat /sys/class/net/eth0/statistics/tx_bytes; }
# sent_for STEPS OUTPUT HOSTS ARGUMENT...
sent_for() {
  local before steps=$1 output=$2 list=$3
  shift 3
  before=$(sent)
  hosts run h1 env LOCKSTEP_SILENCE=3 launch/mpirun.sh --host "$list" "$@" "$lockstep" train configs/digits_mlp.toml "${large[@]}" \
    --set "train.steps=$steps" --output "$work/$output" >>"$work/$output.log" 2>&1
  echo $(($(sent) - before))
}
for list in h1:1,h2:1 h1:2,h2:2 h1:4,h2:4; do
  name=large-${list//[:,]/-}
  short=$(sent_for 5 "$name-5" "$list")
  long=$(sent_for 25 "$name" "$list")
  hundredths=$(((long - short) * 5 / gradient))
  echo "$list: a host sends 0.01 * $hundredths gradients a step"
  check "gradients that a host sends for a step, $list" "1.0" "$([ $hundredths -ge 98 ] && [ $hundredths -le 115 ] && echo 1.0 || echo "$hundredths / 100")"
  check "digest of the large model, $list" "$(digest large-h1-1-h2-1)" "$(digest "$name")"
done
sent_for 25 large-in-turn h1:2,h2:2 --map-by node >/dev/null
check "digest where ranks take turns between hosts" "$(digest large-h1-1-h2-1)" "$(digest large-in-turn)"

train h1:1,h2:1 healed &
job=$!
checkpointed healed "$job"
hosts cut h2
kill -0 "$job" || check "a cut cable" "while it trains" "after its end"
sleep 3
hosts heal h2
wait "$job" || check "exit code after a cable was out for 3 s" 0 "$?"
check "digest after a cable was out for 3 s" "$(digest one)" "$(digest healed)"

# Open MPI's daemons notice it, long before parallel.timeout.
happens h2:1,h3:1 dark -- off h2
check "a power cut of rank 0's host" "an exit code other than 0" "$(case $code in 0 | late) echo "$code" ;; *) echo "an exit code other than 0" ;; esac)"
check "what it leaves on another host" "" "$(left h3)"
train h1:1,h3:1 dark --resume
check "digest after a power cut, gone on elsewhere" "$(digest one)" "$(digest dark)"
hosts boot h2

# A directory of each host's own: with rank 0's host goes its disk, and the run goes on from the other's.
own=/run/tmp/own
train_apart() {
  hosts run h1 env LOCKSTEP_SILENCE=3 launch/mpirun.sh --host "$1" "$lockstep" train "${settings[@]}" --set checkpoint.replicas=1 \
    --output "$own" "${@:2}" >>"$work/apart.log" 2>&1
}
newest_on() { hosts run "$1" sh -c "ls $own/step-*.h5 2>/dev/null | tail -n 1"; }
train_apart h2:1,h3:1 &
job=$!
until [ -n "$(newest_on h3)" ]; do
  kill -0 "$job" || { failures=1; finish; }
  sleep 0.1
done
hosts off h2
wait "$job" || true
copied=$(newest_on h3)
train_apart h1:1,h3:1 --resume
check "where a run without rank 0's disk goes on" 1 "$(grep -c "h1 (none), h3 (step .*): taking that of h3" "$work/apart.log")"
check "from its newest copy" 1 "$(grep -c "resumed from $copied on host h1" "$work/apart.log")"
for host in h1 h3; do
  check "digest on $host without rank 0's disk" "$(digest one)" "$(hosts run "$host" "$lockstep" inspect --digest "$(newest_on "$host")")"
done
hosts boot h2

# Its kernel answers, so only the workers notice; mpirun would wait for its daemon.
happens h1:1,h2:1 frozen --set parallel.timeout=3 -- freeze h2
check "a frozen host" 6 "$code"
hosts thaw h2
check "what it leaves there" "" "$(left h2)"

happens h1:1,h2:1 deaf --set parallel.timeout=3 -- oneway h2 h1
check "a link that is open in one direction" 6 "$code"
hosts bothways h2 h1
check "what it leaves beyond" "" "$(left h2)"
echo "this took $((SECONDS - begin)) s"

if [ "${3:-}" = --long ]; then
  happens h1:1,h2:1 mute --set parallel.timeout=3 -- oneway h1 h2
  check "a link that is open in the other direction" 6 "$code"
  hosts bothways h1 h2
  check "what it leaves beyond" "" "$(left h2)"
  happens h1:1,h2:1 early --set parallel.timeout=3 -- off h2
  check "a power cut that workers notice first" 6 "$code"
  hosts boot h2
  happens h1:1,h2:1,h3:1 apart -- cut h3
  check "a cable that stays out" "an exit code other than 0" "$(case $code in 0 | late) echo "$code" ;; *) echo "an exit code other than 0" ;; esac)"
  check "what it leaves beyond" "" "$(left h3)"
  hosts heal h3
fi
finish
