#!/usr/bin/env bash
# Several hosts on one machine, for tests of what happens between hosts. A host is a set of namespaces (network, mounts, processes,
# IPC, host name) with an address, /run and /dev/shm of its own and an SSH server; a further network namespace holds the bridge that
# connects them. The machine's own network is not touched, and nothing outside can be reached. All end with whoever has called `up`.
#
#   hosts.sh check             whether this machine allows it; else says in one line why not, and exits with 77
#   hosts.sh up N              boots h1 ... hN at 10.77.0.1 ... N; the file system is shared, but for /run, /dev/shm and $TMPDIR
#   hosts.sh down              ends everything; also where nothing is up
#   hosts.sh run HOST COMMAND...
#   hosts.sh off HOST          power cut: no packet leaves any more, then all of it is gone
#   hosts.sh boot HOST         boots one again that is off
#   hosts.sh freeze HOST       stops all its processes; its kernel goes on answering; `thaw` continues them
#   hosts.sh clean HOST        kills all its processes and starts the SSH server again
#   hosts.sh cut HOST          pulls the cable; `heal` plugs it in
#   hosts.sh oneway A B        what A sends to B is lost, what B sends to A arrives; `bothways A B` ends that
#   hosts.sh bridge HOST       gives it a docker0 at 172.17.0.1, the same on each, as real hosts have
#   hosts.sh shape OPTION...   what netem delays and loses of all that is sent, e.g. delay 10ms loss 1%; needs netem in the kernel
#
# HOSTS_STATE: the directory of this set of hosts. Needs root, iproute2, util-linux, procps and openssh-server.
set -euo pipefail

self=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/hosts.sh
state=${HOSTS_STATE:-/tmp/lockstep-hosts}
network=10.77.0

die() { echo "hosts: $*" >&2; exit 1; }
skip() { echo "SKIPPED: no test hosts here: $*"; exit 77; }
pid_of() { cat "$state/$1.pid" 2>/dev/null || die "$1 is not up"; }
number() { [[ "$1" =~ ^h([1-9][0-9]?)$ ]] || die "no such host: $1"; echo "${BASH_REMATCH[1]}"; }
in_switch() { nsenter -t "$(pid_of switch)" -n -- "$@"; }
in_network() { local pid; pid=$(pid_of "$1"); shift; nsenter -t "$pid" -n -- "$@"; }
in_host() { local pid; pid=$(pid_of "$1"); shift; nsenter -t "$pid" -m -u -i -n -p -- "$@"; }
mac() { printf '02:00:00:00:00:%02x' "$1"; }

check() {
  local tool
  [ "$(id -u)" -eq 0 ] || skip "not root"
  for tool in ip unshare nsenter ssh ssh-keygen mount pgrep; do command -v "$tool" >/dev/null || skip "$tool was not found"; done
  [ -x /usr/sbin/sshd ] || skip "/usr/sbin/sshd was not found (openssh-server)"
  unshare -n -m -u -i -p -f --mount-proc true 2>/dev/null || skip "namespaces are not allowed"
  unshare -n -m sh -c 'mount -t tmpfs tmpfs /run && mount -t sysfs sysfs /sys' 2>/dev/null || skip "mounts are not allowed"
  unshare -n sh -c 'ip link add port type veth peer name end0 && ip link add br0 type bridge' 2>/dev/null || skip "the kernel has no veth or no bridge"
}

# What process 1 of a host does: mounts, SSH server; then it stays and reaps whose parents are gone.
host_main() {
  hostname "$1"
  mount -t tmpfs tmpfs /run
  mkdir /run/cgroup
  [ ! -d /sys/fs/cgroup ] || mount --rbind /sys/fs/cgroup /run/cgroup
  mount -t sysfs sysfs /sys  # its own network's interfaces
  [ ! -d /sys/fs/cgroup ] || mount --rbind /run/cgroup /sys/fs/cgroup
  mount --bind "$state/hosts" /etc/hosts
  mount --bind "$state/ssh_config" /etc/ssh/ssh_config
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  mkdir -p /run/sshd
  mkdir -m 1777 /run/tmp
  ip link set lo up
  /usr/sbin/sshd -f "$state/sshd_config"
  : >/run/ready
  trap 'exit 0' TERM
  while true; do sleep 1000 & wait $! || true; done
}

boot() {
  local name=$1 n parent child=''
  n=$(number "$name")
  [ ! -e "$state/$name.pid" ] || die "$name is up already"
  HOSTS_STATE=$state setsid unshare -n -m -u -i -p -f --mount-proc --kill-child bash "$self" host-main "$name" \
    </dev/null >"$state/$name.log" 2>&1 &
  parent=$!
  for _ in {1..200}; do
    child=$(pgrep -P "$parent") && break
    sleep 0.05
  done
  [ -n "$child" ] || { cat "$state/$name.log" >&2; die "$name did not start"; }
  echo "$child" >"$state/$name.pid"
  in_switch ip link add "p$n" type veth peer name eth0 address "$(mac "$n")" netns "$child"
  in_switch ip link set "p$n" master br0 up
  in_network "$name" ip address add "$network.$n/24" dev eth0
  in_network "$name" ip link set eth0 up
  for _ in {1..200}; do
    ! in_host "$name" test -e /run/ready || return 0
    sleep 0.05
  done
  cat "$state/$name.log" >&2
  die "$name did not come up"
}

# Holds the network namespace of the switch, and ends everything when process OWNER is gone.
switch_main() {
  ip link add br0 type bridge
  ip link set br0 up
  : >"$state/switched"
  while kill -0 "$1" 2>/dev/null; do sleep 1; done
  down
}

up() {
  local count=$1 i
  [ ! -e "$state" ] || die "$state is there already: hosts.sh down ends those hosts"
  mkdir -p "$state"
  chmod 700 "$state"
  ssh-keygen -q -t ed25519 -N '' -f "$state/key"
  echo "127.0.0.1 localhost" >"$state/hosts"
  for ((i = 1; i <= 99; ++i)); do echo "$network.$i h$i"; done >>"$state/hosts"
  cat >"$state/sshd_config" <<END
HostKey $state/key
AuthorizedKeysFile $state/key.pub
PidFile none
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
MaxStartups 100
SetEnv TMPDIR=/run/tmp
END
  cat >"$state/ssh_config" <<END
Host *
  IdentityFile $state/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  LogLevel ERROR
END
  HOSTS_STATE=$state setsid unshare -n bash "$self" switch-main "$PPID" </dev/null >"$state/switch.log" 2>&1 &
  echo $! >"$state/switch.pid"
  for _ in {1..100}; do
    [ ! -e "$state/switched" ] || break
    sleep 0.05
  done
  for ((i = 1; i <= count; ++i)); do boot "h$i"; done
}

down() {
  local file
  for file in "$state"/h*.pid "$state/switch.pid"; do
    [ ! -e "$file" ] || [ "$(cat "$file")" = $$ ] || kill -KILL "$(cat "$file")" 2>/dev/null || true
  done
  rm -rf "$state"
}

command=${1:-help}
[ "$#" -eq 0 ] || shift
case $command in
  check) check ;;
  host-main) host_main "$1" ;;
  switch-main) switch_main "$1" ;;
  up) check; up "$1" ;;
  down) down ;;
  run)
    pid=$(pid_of "$1")
    shift
    # shellcheck disable=SC2016  # expanded there
    exec nsenter -t "$pid" -m -u -i -n -p -- env TMPDIR=/run/tmp sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
    ;;
  boot) boot "$1" ;;
  off)
    in_switch ip link delete "p$(number "$1")"
    kill -KILL "$(pid_of "$1")"  # with process 1 all others end
    rm "$state/$1.pid"
    ;;
  # -1: all that it can see, but for process 1 and itself.
  freeze) in_host "$1" sh -c 'kill -STOP -1' ;;
  thaw) in_host "$1" sh -c 'kill -CONT -1' ;;
  clean)
    in_host "$1" sh -c 'kill -KILL -1' || true
    in_host "$1" /usr/sbin/sshd -f "$state/sshd_config"
    ;;
  cut) in_switch ip link set "p$(number "$1")" down ;;
  heal) in_switch ip link set "p$(number "$1")" up ;;
  # To a station that is not there: a firewall's rule would need one.
  oneway) in_network "$1" ip neighbour replace "$network.$(number "$2")" lladdr "$(mac 255)" nud permanent dev eth0 ;;
  bothways) in_network "$1" ip neighbour replace "$network.$(number "$2")" lladdr "$(mac "$(number "$2")")" nud permanent dev eth0 ;;
  bridge)
    in_network "$1" ip link add docker0 type bridge
    in_network "$1" ip link add c0 type veth peer name c1
    in_network "$1" ip link set c0 master docker0 up
    in_network "$1" ip link set c1 up
    in_network "$1" ip address add 172.17.0.1/16 dev docker0
    in_network "$1" ip link set docker0 up
    ;;
  shape)
    for file in "$state"/h*.pid; do
      host=$(basename "$file" .pid)
      in_network "$host" tc qdisc replace dev eth0 root netem limit 100000 "$@"
    done
    ;;
  *) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
