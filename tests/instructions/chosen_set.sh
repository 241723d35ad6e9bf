#!/bin/sh
# Each set of kernels of a build is used when it is asked for by name; where the processor runs several of them, whole runs in fp32
# end in the same bits, and workers with different sets are refused. Usage: chosen_set.sh COMMAND CONFIGS MPIRUN SET...
# MPIRUN: empty in builds without MPI.
set -eu

command=$1
configs=$2
mpirun=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
complain() {
  echo "$1: $(cat "$work/out" "$work/err")" >&2
  failures=1
}
# with SET ARGUMENT...: the command with that set; sets status.
with() {
  set=$1
  shift
  status=0
  LOCKSTEP_CPU_KERNELS=$set "$command" "$@" >"$work/out" 2>"$work/err" || status=$?
}

here=
for set in "$@"; do
  with "$set" --version
  if [ "$status" -eq 0 ] && grep -qE "kernels for (portable: )?$set(, of |\$)" "$work/out"; then
    here="$here $set"
  elif [ "$status" -ne 2 ] || ! grep -q '^error: cpu: .* lacks: ' "$work/err"; then
    complain "LOCKSTEP_CPU_KERNELS=$set: exit status $status"
  fi
done
[ -n "$here" ] || complain 'no set of kernels runs here'
with '' --version
first=$(echo $here | cut -d ' ' -f 1)
# Instructions that are slower than doing without are taken on request alone (kernels/instructions.h).
if [ "$first" = avx512_bf16 ] && grep -q GenuineIntel /proc/cpuinfo && grep -qw avx512_fp16 /proc/cpuinfo; then
  first=$(echo $here | cut -d ' ' -f 2)
fi
grep -qE "kernels for (portable: )?$first(, of |\$)" "$work/out" || complain "not $first where nothing is asked for"
with none --version
if [ "$status" -ne 2 ] || ! grep -q "^error: LOCKSTEP_CPU_KERNELS: .*\"none\", it has: .*$first" "$work/err"; then
  complain "LOCKSTEP_CPU_KERNELS=none: exit status $status"
fi

[ "$here" != " $first" ] || exit "$failures"
for model in mlp cnn lstm transformer; do
  for set in $here; do
    with "$set" train "$configs/digits_$model.toml" --device cpu --output "$work/$model.$set" --set train.epochs=1 \
      precision.compute=fp32 checkpoint.keep=1
    [ "$status" -eq 0 ] || complain "$model with $set: exit status $status"
    with "$set" diff "$work/$model.$first"/step-*.h5 "$work/$model.$set"/step-*.h5
    [ "$status" -eq 0 ] || complain "$model: $set and $first differ"
  done
done

if [ -n "$mpirun" ]; then
  last=$(echo $here | awk '{ print $NF }')
  status=0
  "$mpirun" --oversubscribe -q \
    -np 1 env LOCKSTEP_CPU_KERNELS="$first" "$command" train "$configs/digits_mlp.toml" --device cpu --output "$work/mixed" : \
    -np 1 env LOCKSTEP_CPU_KERNELS="$last" "$command" train "$configs/digits_mlp.toml" --device cpu --output "$work/mixed" \
    >"$work/out" 2>"$work/err" || status=$?
  if [ "$status" -ne 2 ] || ! grep -q 'error: device.type: workers differ: rank 0 has .*LOCKSTEP_CPU_KERNELS' "$work/err"; then
    complain "workers with $first and $last: exit status $status"
  fi
fi
exit "$failures"
