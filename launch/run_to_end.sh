# shellcheck shell=bash
# What the launch scripts share: they source it first of all. From then on `root` is the checkout, TERM, INT, USR1 and HUP
# (a terminal that is closed) are noted, and `run_to_end [MPIRUN OPTION...] PROGRAM [ARGUMENT...]` runs mpirun so that no signal
# is lost, none destroys what an earlier one has asked for, and nobody has to read the log.
#
# What bash 5.2 does to somebody who holds signals, and how the scripts live with it:
#   - A trap that interrupts it while it reads $(...) or <(...) ends it with code 2 or crashes it, and it reads them when they run,
#     too. So the scripts stand in braces, which have bash read all of them before their first line runs (nor does it matter to a run
#     then that its script is replaced by a newer one); and outside of subshells, which have no traps, neither is used: the last part
#     of a pipe is run by the shell itself, `command | read -r variable`.
#   - Ctrl-C kills the commands that the script waits for: what they say may be missing, and what they return is not relied on.
#   - It forgets the status of a job whose wait signals have interrupted, or takes the signal for it, or waits for it for ever. So
#     somebody whom no signal disturbs waits for mpirun (run_undisturbed), and nothing else is waited for.
#   - A child that is ended at once may run its parent's EXIT trap: there is none.

for descriptor in 0 1 2; do  # closed ones would become something else's
  [ -e "/dev/fd/$descriptor" ] || eval "exec $descriptor<>/dev/null"
done
exec {told}<> <(:)  # what is told about mpirun, see run_undisturbed
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
shopt -s lastpipe
stops=0 interrupts=0 job=0 asked=0 ended=0

# May itself be interrupted by another signal's trap.
note_stop() {
  stops=$((stops + 1))
  [ "$job" -ne 0 ] || return 0
  if [ "$interrupts" -gt 1 ] && (: </dev/tty) 2>/dev/null; then
    ended=1
    kill -TERM "$job" 2>/dev/null || true  # somebody at the terminal wants it to end now
  else
    ask_to_stop
  fi
}

# Through mpirun the workers get SIGUSR1, upon which they save a checkpoint and leave with exit code 75. (Open MPI 4.1 itself
# would kill them a second after TERM.) Again and again until mpirun has ended: while workers start, a signal is easily lost.
# By a process that is nobody's job and goes on if this script does not.
ask_to_stop() {
  if [ "$asked" -ne 0 ] || [ "$job" -le 0 ]; then return 0; fi
  asked=1
  echo "stopping: asking the workers to save and leave (Ctrl-C twice ends them at once)" >&2 || true
  ( (trap '' TERM INT USR1 HUP
     while kill -USR1 "$job"; do sleep 0.5; done) & ) </dev/null >/dev/null 2>&1
}

# Hands a log on and drops what nobody takes: mpirun ends the job when it cannot write.
hand_on() { exec tee -p "${1:-/dev/null}"; }

# Kills what is left of the session that process NUMBER began: SSH connections and workers on this host of an mpirun that has been
# killed. What it has started elsewhere ends when its connections close, or when the keepalive finds that nobody is there.
end_session() {
  local stat line
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    [[ "$line" =~ \)\ .\ [0-9]+\ [0-9]+\ $1\  ]] || continue
    stat=${stat%/stat}
    kill -KILL "${stat#/proc/}" 2>/dev/null || true
  done
}

# minded: whether the script itself still runs; what is left of one that has been killed, until somebody asks for it, does not.
minded() {
  local stat=''
  { read -r stat </proc/$$/stat; } 2>/dev/null && [[ "${stat##*) }" != Z* ]]
}

# stuck NUMBER: whether nothing can come of this mpirun any more: it has no process on this host that runs, it waits for a lock, and its
# other threads wait for locks or messages. (Files may keep them busy for long.)
stuck() {
  local task line child children=()
  [ -e "/proc/$1/task/$1/children" ] || return 1
  for task in "/proc/$1/task/"*; do
    line=''
    { read -r line <"$task/wchan"; } 2>/dev/null || true  # the line has no end
    [[ "$line" = futex* || "${task##*/}" -ne "$1" && "$line" =~ ^(poll|do_poll|do_select|ep_poll|do_epoll) ]] || return 1
    line=''
    { read -r line <"$task/children"; } 2>/dev/null || true
    # shellcheck disable=SC2206  # numbers
    children+=($line)
  done
  for child in "${children[@]}"; do
    line=''
    { read -r line <"/proc/$child/stat"; } 2>/dev/null || true
    [[ "$line" = *") Z "* ]] || return 1
  done
}

# How the pages begin on which mpirun refuses what it is asked for, with exit code 1, as a mistake of a worker would have it, or, for a
# program that is not there, with that of a signal.
refusals='There are not enough slots available|mpirun: Error: |Open MPI has detected that a parameter given|No executable was specified'
refusals+='|Open RTE was unable to open the hostfile|The specified [a-z]+ policy is not recognized'
refusals+='|mpirun was unable to (find the specified executable file|launch the specified application as it could not access)'

# What it says where it cannot write to its own directory.
unwritable='A call to mkdir was unable to create the desired directory|  orte_session_dir failed'

# Ends an mpirun that outlives an error. It waits for ever for the daemon of a host that is frozen or whose packets are lost; and for
# itself (PMIx 4.2) when a worker is killed at the moment at which it connects. Reads mpirun's number and then its log: 15 seconds of
# silence after a line that says so, or stuck all the time, and it is ended; the exit code, which is told first, is that which a worker
# has asked for. (A rank 0 that still saves says so every 10 seconds.)
# Where the script itself has been killed, the workers are asked to save and leave: a run that nobody minds would keep its directory
# from the next one.
end_after_error() {
  local number text rest='' status code=6 silence=0 error=false
  read -r number || return 0
  while true; do
    status=0 text=''
    minded || kill -USR1 "$number" 2>/dev/null || true
    IFS= read -r -d '' -t 1 text || status=$?  # what has come within a second
    if [ -n "$text" ]; then
      silence=0
      text=$'\n'$rest$text rest=''
      if [[ "$text" =~ $'\n'with\ errorcode\ ([1-9][0-9]*)\. ]]; then code=${BASH_REMATCH[1]}; fi
      if [[ "$text" =~ $'\n'(MPI_ABORT\ was|ORTE\ has\ lost|Primary\ job)|noticed\ that\ process|ORTE_ERROR_LOG|error:\ [^$'\n']*not\ finished\ after ]]; then
        error=true
      elif [[ "$text" =~ $'\n'($refusals) ]]; then
        echo "mpirun has started nothing: Open MPI says above what is wrong with its arguments, the program or the hosts" >&"$stderr"
        echo 2 >&"$told"
        return 0
      elif [[ "$text" =~ $'\n'($unwritable) ]]; then
        echo "mpirun has started nothing: it cannot write to ${TMPDIR:-/tmp} (TMPDIR), Open MPI says above why" >&"$stderr"
        echo 4 >&"$told"
        return 0
      fi
      rest=${text##*$'\n'}  # a line that goes on
    elif [ "$status" -gt 128 ]; then
      silence=$((silence + 1))
      $error || stuck "$number" || silence=0
      [ "$silence" -ge "${LOCKSTEP_SILENCE:-15}" ] || continue
      echo "mpirun does not end after an error: ending it" >&"$stderr"
      echo "$code" >&"$told"
      kill -KILL "$number"
      return 0
    fi
    if [ "$status" -ne 0 ] && [ "$status" -le 128 ]; then return 0; fi
  done
}

# The last thing that a script does: a signal while bash exits would change the code. (And bash warns of one that it has just noted.)
end_with() {
  exec 2>/dev/null
  trap '' TERM INT USR1 HUP
  exit "$1"
}

# Which files are checkpoints, for find: a user's step-best.h5 is none, and would be the last by name.
checkpoints=(-maxdepth 1 -name 'step-[0-9]*.h5' ! -name 'step-*[!0-9]*.h5')
# find_checkpoints OUTPUT FORMAT: what find prints of each in that directory. (For find, some names are other things than names.)
find_checkpoints() {
  case $1 in /*) ;; *) set -- "./$1" "$2" ;; esac
  find -H "$1" "${checkpoints[@]}" -printf "$2" 2>/dev/null || true
}

# newest_of OUTPUT FORMAT: that of the newest, into the variable `newest`; nothing where there is none.
newest_of() {
  newest=''
  find_checkpoints "$1" "$2" | LC_ALL=C sort -z | tail -zn 1 | IFS= read -r -d '' newest || true
}
# Its path.
newest_checkpoint() { newest_of "$1" '%p\0'; }

# checkpoint_mark OUTPUT: which file the newest is, not only of which step. begun OUTPUT MARK: whether there is one that another run,
# whose newest had that mark, has not left: a run that is to begin anew begins anew until then.
checkpoint_mark() { newest_of "$1" '%f %i %T@\0'; }
begun() {
  checkpoint_mark "$1"
  [ -n "$newest" ] && [ "$newest" != "$2" ]
}

# train_arguments ARGUMENT...: what the user says to `lockstep train`: into `output` the directory, into `begin` how the run is to begin
# until it has a checkpoint of its own, --overwrite or --resume=auto (and then it is always the latter), into `arguments` the rest.
train_arguments() {
  output='' begin=--resume=auto arguments=()
  while [ "$#" -gt 0 ]; do
    case $1 in
      --output) output=${2:-} ;;
      --output=*) output=${1#--output=} ;;
    esac
    if [ "$1" = --overwrite ]; then begin=$1; else arguments+=("$1"); fi
    shift
  done
}

# origin_of_job FILE OUTPUT: into `origin`, the mark of the newest checkpoint when a job first started. FILE remembers it for the starts
# that take its place (put into the queue again, another pod), which must not begin anew what it has begun.
origin_of_job() {
  if [ -e "$1" ] && read -r origin <"$1"; then return 0; fi
  checkpoint_mark "$2"
  origin=$newest
  (mkdir -p "$(dirname "$1")" && echo "$origin" >"$1")
}

# worth_another_start STATUS: whether a run that ended with this exit code may get further when it is started again. One that is
# done, or that its configuration, data, checkpoint or learning rate ended, does not.
worth_another_start() {
  case $1 in 0 | 2 | 3 | 4 | 5) return 1 ;; esac
}

# got_further WHO OUTPUT BEFORE: whether another start is of use after one that failed; BEFORE was the newest checkpoint when it began.
# Three in a row without a new one are not.
fruitless=0
got_further() {
  newest_checkpoint "$2"
  if [ "$newest" = "$3" ]; then fruitless=$((fruitless + 1)); else fruitless=0; fi
  [ "$fruitless" -ge 3 ] || return 0
  echo "$1: 3 starts in a row left no new checkpoint in $2: giving up" >&2
  return 1
}

# Waits, up to a minute or a stop, for what this user's workers of an earlier start still write on this host
# (checkpoint.recovery_point), which another start is to continue from. For any POSIX shell that knows -O: other hosts run it too.
await_saves() {
  tries=0
  while [ "$tries" -lt 300 ] && [ "${stops:-0}" -eq 0 ] && { grep -lsx lockstep-saves /proc/[0-9]*/comm || true; } | (
    while read -r process; do [ ! -O "$process" ] || exit 0; done
    exit 1
  ); do
    sleep 0.2 || true
    tries=$((tries + 1))
  done
}

ssh=(ssh -x -o BatchMode=yes -o ConnectTimeout=2)
# await_saves_on HOST...: the same there, at once.
await_saves_on() {
  local host asked=()
  for host in "$@"; do
    { timeout 70 "${ssh[@]}" -n "$host" "$(declare -f await_saves); await_saves" >/dev/null 2>&1 || true; } &
    asked+=("$!")
  done
  for host in "${asked[@]}"; do wait "$host" || true; done
}

# What Open MPI should do unless the user has said otherwise, in arguments, the environment or a parameter file.
#   - Workers have threads of their own: bound to one core they would share it.
#   - A host whose power is cut is noticed within seconds instead of a quarter of an hour.
#   - Workers that are all on this host listen to no network. (mpirun itself cannot be kept from it.)
#   - Bridges of containers and virtual machines have the same address on every host and lead nowhere.
#
# mpirun_options ARGUMENT...: mpirun's own options, a line each, without values; of those that set a parameter or a variable, its name.
# A program and its arguments are no options, whatever they are called. Which options have values need not be known for that: a program
# right behind one that has none is taken for its value, and so its first argument for the program.
mpirun_options() {
  local i next
  for ((i = 1; i <= $#; ++i)); do
    next=$((i + 1))
    case ${!i} in
      -mca | --mca | -gmca | --gmca) printf '%s\n' "${!next:-}" && i=$((i + 2)) ;;
      -x) printf '%s\n' "${!next:-}" && i=$next ;;
      -*)
        printf '%s\n' "${!i}"
        [[ "${!next:--}" = -* ]] || i=$next
        ;;
      *) while [ "$i" -le "$#" ] && [ "${!i}" != : ]; do i=$((i + 1)); done ;;  # behind a colon: the next program's options
    esac
  done
}
# choices ARGUMENT...: names of what the user has chosen, a line each: options, parameters in arguments, in the environment and in the
# parameter file on standard input.
choices() {
  { mpirun_options "$@"; printf '%s\n' "${!OMPI_MCA_@}"; grep -vE '^[[:space:]]*#' || true; } |
    sed -E 's/^[[:space:]]*(OMPI_MCA_)?//; s/[[:space:]]*=.*//'
}
# chosen PATTERN ARGUMENT...: whether the user has chosen something whose name is what PATTERN (extended) describes.
chosen() (
  pattern=$1
  shift
  said=$({ cat ~/.openmpi/mca-params.conf /etc/openmpi/openmpi-mca-params.conf 2>/dev/null || true; } | choices "$@")
  grep -qxE -- "$pattern" <<<"$said"
)
# alone ARGUMENT...: whether all workers will be on this host, since nobody names others, with a transport that nobody has chosen.
alone() (
  [ -z "${SLURM_JOB_ID:-}${PBS_NODEFILE:-}${PE_HOSTFILE:-}${LSB_HOSTS:-}${LSB_DJOB_HOSTFILE:-}" ] || return 1
  ! grep -qsvE '^[[:space:]]*(#|$)' /etc/openmpi/openmpi-default-hostfile || return 1
  said=$({ cat ~/.openmpi/mca-params.conf 2>/dev/null || true; } | choices "$@")
  ! grep -qxE -- '--?(H|host|((default|add)-)?hostfile|machinefile|rankfile|rf|am|tune)|[a-z_]*hostfile|pml|btl' <<<"$said"
)
# Names by which binding is chosen, or a mapping that goes with one.
binds='--?(bind-to(-core|-socket)?|map-by|rank-by|cpu-(set|list)|cpus-per-(proc|rank)|n?pernode|ppr|rankfile|rf)|orte_rankfile'
binds+='|(hwloc|rmaps)_[a-z_]*((bind|mapp|rank)ing_policy|bind_to_(core|socket)|cpu_(set|list)|cpus_per_(proc|rank)|pernode|rank_file_path)'
binds+='|rmaps_ppr_pattern'
# by_default NAME=VALUE...: sets these parameters, and tells the workers that nobody has chosen them.
by_default() {
  local setting
  for setting in "$@"; do
    export "OMPI_MCA_$setting"
    export OMPI_MCA_lockstep_defaults="${OMPI_MCA_lockstep_defaults:+$OMPI_MCA_lockstep_defaults,}${setting%%=*}"
  done
}
mpi_defaults() {
  local name virtual=() IFS=,
  chosen "$binds" "$@" || by_default hwloc_base_binding_policy=none
  chosen 'oob_tcp_keepalive[a-z_]*' "$@" ||
    by_default oob_tcp_keepalive_time=5 oob_tcp_keepalive_intvl=2 oob_tcp_keepalive_probes=3
  ! alone "$@" || by_default pml=ob1 btl=self,vader
  for name in "${LOCKSTEP_NET:-/sys/class/net}"/*; do
    name=${name##*/}
    case $name in docker* | br-* | virbr* | vmnet* | veth* | cni* | podman* | lxc* | lxd* | flannel* | cali*) virtual+=("$name") ;; esac
  done
  if [ "${#virtual[@]}" -eq 0 ] || chosen '(btl|oob)_tcp_if_(in|ex)clude' "$@"; then return 0; fi
  by_default btl_tcp_if_exclude="127.0.0.1/8,sppp,${virtual[*]}" oob_tcp_if_exclude="${virtual[*]}"
}

# run_undisturbed MPIRUN_ARGUMENT...: runs mpirun, and tells its number and its exit code. Its output goes where this one's does, its
# messages to $stderr.
run_undisturbed() {
  local out err watched number readers status=0
  trap '' TERM INT USR1 HUP
  exec {out}> >(hand_on)
  readers=$!
  exec {watched}> >(exec {out}>&-; end_after_error)
  readers+=" $!"
  exec {err}> >(exec {out}>&-; hand_on "/dev/fd/$watched" >&"$stderr")
  readers+=" $!"
  # In a session of its own, so that Ctrl-C reaches the script only; SIGUSR1 ignored until mpirun has a handler for it.
  (
    trap - TERM INT HUP PIPE
    exec setsid mpirun "$@" >&"$out" 2>&"$err" {told}>&- {out}>&- {err}>&- {watched}>&- {stderr}>&-
  ) &
  number=$!
  echo "$number" >&"$told"
  echo "$number" >&"$watched"
  exec {out}>&- {err}>&- {watched}>&-
  wait "$number" || status=$?
  end_session "$number"
  # shellcheck disable=SC2086  # numbers
  wait $readers || true
  echo "$status" >&"$told"
}

# Beside mpirun runs the function that `beside` names, where it does, with mpirun's number; it is ended with it.
# Returns mpirun's exit code; 75 where the request to stop ended a process that did not know it yet: no worker gets beyond its
# start without the others, so there was nothing to save. (Or did not know it any more, on its way out after TERM.) 130 where a second
# Ctrl-C has ended it. 6 where Open MPI ends with an error of its own, a negative number: 205 when a connection to another host fails.
run_to_end() {
  local options=() waiter companion='' number='' status=1
  if ! command -v mpirun >/dev/null; then
    echo "mpirun was not found; launch/install_dependencies.sh installs it" >&2
    return 2
  fi
  [ "$EUID" -ne 0 ] || options+=(--allow-run-as-root)
  [ ! -t 2 ] || export LOCKSTEP_ON_TERMINAL=1
  mpi_defaults "$@"
  while read -r -t 0 <&"$told"; do read -r <&"$told" || true; done  # of an earlier one
  [ "$stops" -eq 0 ] || return 75
  run_undisturbed "${options[@]}" "$@" </dev/null {stderr}>&2 2>/dev/null &  # bash itself says which of its children were killed
  waiter=$!
  until read -r -t 1 number <&"$told" || ! kill -0 "$waiter" 2>/dev/null; do :; done
  job=${number:-0}
  [ "$stops" -eq 0 ] || ask_to_stop  # noted between the look above and now
  if [ -n "${beside:-}" ] && [ "$job" -gt 0 ]; then
    "$beside" "$job" &
    companion=$!
  fi
  while kill -0 "$waiter" 2>/dev/null; do wait "$waiter" || true; done
  # More than once: a signal interrupts read too. Not for ever: somebody may have killed who was to tell.
  for number in 1 2 3; do
    if read -r -t 1 number <&"$told"; then
      status=$number
      break
    fi
  done
  [ -z "$companion" ] || kill "$companion" 2>/dev/null || true
  [ "$job" -gt 0 ] || status=143  # ended before there was an mpirun
  job=0
  [ "$status" -le 192 ] || status=6
  if [ "$stops" -gt 0 ]; then
    case $status in
      129 | 130 | 138 | 139 | 143) status=$((ended ? 130 : 75)) ;;
      1) [ "$ended" -eq 0 ] || status=130 ;;  # what Open MPI 4.1 says when it is ended
    esac
  fi
  return "$status"
}

trap '' PIPE
trap 'note_stop' TERM USR1 HUP
trap 'interrupts=$((interrupts + 1)); note_stop' INT
