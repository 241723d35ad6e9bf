#!/usr/bin/env bash
# The installer asks for exactly what is missing, for nothing when all is there, and says how to get what it cannot install.
# shellcheck disable=SC2016  # bodies of stand-ins are expanded when they run
set -euo pipefail

installer=$1/install_dependencies.sh
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
bash=$(command -v bash)
for tool in bash cat env grep; do ln -s "$(command -v "$tool")" "$bin/$tool"; done

# fake NAME BODY: a command of that name. Calls of apt-get and sudo are written down in $bin/calls.
fake() {
  printf '#!%s\n%s\n' "$bash" "$2" >"$bin/$1"
  chmod +x "$bin/$1"
}
all_but_two='case "${*: -1}" in ninja-build) exit 1 ;; libfmt-dev) echo not-installed ;; *) echo installed ;; esac'

failures=0
# expect CODE TEXT: the installer exits with CODE and prints TEXT (nothing at all when TEXT is empty).
expect() {
  local code=0 output
  : >"$bin/calls"
  output=$(PATH=$bin "$bash" "$installer" 2>&1 </dev/null) || code=$?
  if [ "$code" -ne "$1" ] || [[ "$output" != *"$2"* ]] || [[ -z "$2" && -n "$output" ]]; then
    printf 'expected %s "%s", got %s:\n%s\n' "$1" "$2" "$code" "$output" >&2
    failures=$((failures + 1))
  fi
}
expect_calls() {
  if [ "$(cat "$bin/calls")" != "$1" ]; then
    printf 'expected calls "%s", got "%s"\n' "$1" "$(cat "$bin/calls")" >&2
    failures=$((failures + 1))
  fi
}

# No Debian packages at all.
expect 2 "libopenmpi-dev"

fake dpkg-query 'echo installed'
fake id 'echo 0'
fake apt-get "echo \"apt-get \$*\" >>$bin/calls"
expect 0 ""
expect_calls ""

fake dpkg-query "$all_but_two"
expect 0 "Installing: ninja-build libfmt-dev"
expect_calls "apt-get update -qq
apt-get install -y -qq --no-install-recommends ninja-build libfmt-dev"

# No network, or a package that this release does not have.
fake apt-get 'exit 100'
expect 2 "apt-get install -y --no-install-recommends ninja-build libfmt-dev"

# An ordinary user: without sudo, with one that would ask for a password, with one that works.
fake apt-get "echo \"apt-get \$*\" >>$bin/calls"
fake id 'echo 1000'
expect 2 "Neither root nor sudo"
expect_calls ""
fake sudo 'exit 1'
expect 2 "sudo needs a password"
expect_calls ""
fake sudo '[ "$1" != -n ] || shift; [ "$1" != true ] || exit 0; exec "$@"'
expect 0 "Installing: ninja-build libfmt-dev"
expect_calls "apt-get update -qq
apt-get install -y -qq --no-install-recommends ninja-build libfmt-dev"

rm "$bin/apt-get"
expect 2 "apt-get was not found"
[ "$failures" -eq 0 ]
