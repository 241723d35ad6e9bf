#!/usr/bin/env bash
# Jobs on a cluster of Slurm (slurmctld, two slurmd, munge) out of test hosts: slurm_test.sh CHECKOUT COMMAND. A job trains over two nodes,
# goes on within itself when one loses power, is put into the queue when it is told to stop, and ends with the digest of one process;
# srun alone is refused. Exit 77: no test hosts or no Slurm on this machine.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$1" && pwd)
lockstep=$2
cd "$checkout"
source "$here/training.sh"
source "$here/slurm.sh"
settings=(configs/digits_mlp.toml --set checkpoint.every=44 --set train.evaluate_every=0 --set train.epochs=0)
slurm_here
hosts up 3
slurm_up h1 h2 h3
# Where jobs are submitted: a checkout with a difficult name.
submit="$work/a [checkout]*"
mkdir -p "$submit/build/release/bin"
ln -s "$checkout/launch" "$checkout/configs" "$submit"
ln -s "$lockstep" "$submit/build/release/bin"
cd "$submit"
log=$submit/lockstep.log

state() { slurm squeue --noheader --states=all --jobs="$1" --format=%T; }
# until_true SECONDS WHAT COMMAND...
until_true() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null; do
    [ "$SECONDS" -lt "$end" ] || { check "$what" "within its time" "not yet"; slurm sinfo >&2; tail -n 5 "$log" "$work"/slurm*.log >&2; finish; }
    sleep 0.1
  done
}
is() { [[ "$(state "$1")" =~ $2 ]]; }
nodes_are() { [ "$(slurm sinfo --noheader --nodes="$2" --format=%t | sort -u | paste -sd,)" = "$1" ]; }
steps_in() { [ "$(grep -c '^step ' "$log")" -gt "$1" ]; }

started_on_two() { [ "$(grep -c 'mpi: 2 workers, .* 2 threads a worker' "$log")" -eq "$1" ]; }

until_true 30 "two nodes" nodes_are idle h2,h3
code=0
said=$(slurm timeout 60 srun --nodes=2 --ntasks=2 "$lockstep" train "${settings[@]}" --set train.steps=9 --output "$work/srun" 2>&1) || code=$?
check "exit code of srun without PMI" 2 "$code"
check "what it names" 2 "$(grep -c 'error: .*srun --mpi=pmix' <<<"$said")"
check "what it leaves" "" "$(ls "$work/srun" 2>/dev/null || true)"

job=$(slurm sbatch --parsable --job-name="dig*ts" --nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --output="$log" launch/slurm.sbatch \
  "${settings[@]}" --set train.steps=100000 --set train.log_every=10)
job=${job%%;*}
: >>"$log"
until_true 60 "a job on two nodes" steps_in 5
until_true 1 "two workers with the threads of a task" started_on_two 1
until_true 60 "its first checkpoint" compgen -G "runs/namespaces/dig\*ts/step-*.h5"
# The node that does not run the script.
batch=$(slurm squeue --noheader --jobs="$job" --format=%B)
other=$([ "$batch" = h2 ] && echo h3 || echo h2)
before=$(grep -c '^step ' "$log")
hosts off "$other"
until_true 60 "a start without the node that has lost power" grep -q "starting it again on $batch:1" "$log"
until_true 60 "steps on the node that is left" steps_in "$((before + 5))"
hosts boot "$other"
slurm_start "$other"

# What Slurm sends before the time is up.
slurm scancel --batch --signal=USR1 "$job"
until_true 60 "the end of the run" grep -q "^stopped" "$log"
until_true 60 "the job in the queue" is "$job" PENDING
sleep 2  # credentials of the second in which the job was ended are refused
slurm scontrol update jobid="$job" starttime=now  # Slurm would wait for two minutes
until_true 60 "a second start on two nodes" started_on_two 2
slurm scancel "$job"
until_true 60 "the end of the job" is "$job" "CANCELLED|^$"

newest=$(find runs/namespaces -name 'step-*.h5' | sort | tail -n 1)
steps=$((10#$(basename "$newest" .h5 | cut -d- -f2)))
"$lockstep" train "${settings[@]}" --set "train.steps=$steps" --output "$work/one" >/dev/null 2>&1
check "digest after all this" "$(digest one)" "$("$lockstep" inspect --digest "$newest")"
finish
