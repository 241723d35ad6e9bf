# shellcheck shell=bash
# What tests on several hosts share; they source it with $here (this folder) and $lockstep (the command). It skips the test where
# there can be no hosts, and removes them at the end.

work=$(mktemp -d)
export HOSTS_STATE=$work/state
hosts() { "$here/hosts.sh" "$@"; }
hosts check || exit
trap 'hosts down; rm -rf "$work"' EXIT

source "$(dirname "${BASH_SOURCE[0]}")/../check.sh"
# The last thing that a test does: its logs where it failed.
finish() {
  [ "$failures" -gt 0 ] || exit 0
  tail -n 30 "$work"/*.log >&2
  exit 1
}

# shellcheck disable=SC2034  # for whoever sources this
settings=(configs/digits_mlp.toml --set train.epochs=60 --set checkpoint.every=44 --set train.evaluate_every=0 --set device.threads=1)
digest() { "$lockstep" inspect --digest "$(find "$work/$1" -name 'step-*.h5' | sort | tail -n 1)"; }
# checkpointed OUTPUT JOB: waits for its first checkpoint.
checkpointed() {
  until compgen -G "$work/$1/step-*.h5" >/dev/null; do
    kill -0 "$2" || { failures=1; finish; }
    sleep 0.02
  done
}
# What is left of runs on a host, after up to 20 seconds: it takes daemons some to notice that nobody is there any more.
left() {
  local turn
  for ((turn = 0; turn < 40; ++turn)); do
    hosts run "$1" pgrep -l 'locks|orte|mpir' >"$work/left" || break
    sleep 0.5
  done
  cat "$work/left"
}
