#!/usr/bin/env bash
# The launch scripts hand on exit codes, ask for a stop with SIGUSR1 until the job has ended, and let nothing but a second Ctrl-C
# at a terminal disturb it.
set -euo pipefail

# Somebody who runs the tests in the background or under nohup has these ignored, and a shell cannot catch what it was started to
# ignore: all begin anew.
if [ -z "${SIGNALS_BEGIN_ANEW:-}" ]; then
  export SIGNALS_BEGIN_ANEW=1
  exec perl -e '$SIG{$_} = "DEFAULT" for qw(HUP INT QUIT PIPE TERM USR1); exec @ARGV' -- "$0" "$@"
fi

wrapper=$1/mpirun.sh
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT

cp "$(dirname "$0")/mpirun_standin" "$bin/mpirun"
export PATH=$bin:$PATH NOTES=$bin/notes

source "$(dirname "${BASH_SOURCE[0]}")/../check.sh"
# noted LINES: waits until the stand-in has written that many lines.
noted() {
  for ((i = 0; i < 600; ++i)); do
    [ "$(wc -l <"$NOTES")" -lt "$1" ] || return 0
    sleep 0.05
  done
  echo "the stand-in did not get as far as line $1" >&2
  exit 1
}
kinds() { sort -u "$NOTES" | tr '\n' ' '; }

code=0
"$wrapper" exit 3 || code=$?
check "exit code of the job" 3 "$code"
code=0
"$wrapper" exit 205 || code=$?
check "exit code of an error of Open MPI's" 6 "$code"
for text in "There are not enough slots available in the system to satisfy the 8" 'mpirun: Error: unknown option "--nonsense"' \
    "Open MPI has detected that a parameter given to a command line" "Open RTE was unable to open the hostfile:" \
    "The specified mapping policy is not recognized:" "No executable was specified on the mpirun command line." \
    "mpirun was unable to find the specified executable file, and therefore" \
    "mpirun was unable to launch the specified application as it could not access"; do
  code=0
  "$wrapper" refuses "$text" 2>"$bin/said" || code=$?
  check "exit code of mpirun's own: $text" 2 "$code"
  check "what is said of it" 1 "$(grep -c '^mpirun has started nothing' "$bin/said")"
done
code=0
"$wrapper" refuses "error: says a worker: There are not enough slots available" 2>/dev/null || code=$?
check "exit code of a job that says something like it" 1 "$code"
for text in "A call to mkdir was unable to create the desired directory:" "  orte_session_dir failed"; do
  code=0
  "$wrapper" refuses "$text" 2>"$bin/said" || code=$?
  check "exit code without a directory for mpirun: $text" 4 "$code"
  check "what is said of it" 1 "$(grep -c '^mpirun has started nothing: it cannot write to ' "$bin/said")"
done
"$wrapper" exit 0
check "output of the job" "line" "$("$wrapper" talks 2>&1 | sort -u)"

# An mpirun that outlives an error is ended, with its session, unless somebody still has something to say.
outlived() {
  local code=0
  LOCKSTEP_SILENCE=1 timeout 20 "$wrapper" -np 2 "$@" 2>"$bin/said" || code=$?
  echo "$code $(grep -c 'ending it' "$bin/said" || true)"
}
check "end of an mpirun that outlives an error" "5 1" "$(outlived outlives "with errorcode 5.")"
check "end of one without an exit code" "6 1" "$(outlived outlives "")"
check "end of one that still saves" "4 0" "$(outlived outlives saving)"
check "end of one that waits for itself" "6 1" "$(outlived stuck 1)"
check "end of one that waits for a worker" "142 0" "$(LOCKSTEP_TEST_ALARM=4 outlived stuck 20)"
check "end of a silent one" "9 0" "$(outlived silent 4)"
check "what is left of them" "" "$(pgrep -f "$bin/mpirun .*outlives" || true)"

# What Open MPI is told, unless the user has chosen.
mkdir -p "$bin/net/eth0" "$bin/net/lo"
export LOCKSTEP_NET=$bin/net HOME=$bin
said() { (unset "${!OMPI_MCA_@}" "${!SLURM_@}" PBS_NODEFILE; env "$@" 2>/dev/null | sed 's/^OMPI_MCA_//'); }
told() { said "$@" | grep -vE '^(pml|btl)=' | tr '\n' ' '; }
transport() { said "$@" | grep -E '^(pml|btl)=' | tr '\n' ' '; }
keepalive="oob_tcp_keepalive_intvl=2 oob_tcp_keepalive_probes=3 oob_tcp_keepalive_time=5 "
binding="hwloc_base_binding_policy=none "
check "what Open MPI is told" "$binding$keepalive" "$(told "$wrapper" defaults)"
check "what it is told beside --bind-to" "$keepalive" "$(told "$wrapper" --bind-to core defaults)"
check "what it is told beside -bind-to-core" "$keepalive" "$(told "$wrapper" -bind-to-core defaults)"
check "what it is told beside --map-by" "$keepalive" "$(told "$wrapper" --map-by slot:PE=1 defaults)"
check "what it is told beside an option of the second program" "$keepalive" \
  "$(told "$wrapper" -np 1 defaults train : -q -np 1 --map-by node defaults)"
for option in "--bind-to=core" "--cpu-set 0,1" "--mca hwloc_base_binding_policy core" "--mca rmaps_base_mapping_policy ppr:1:core" \
    "-q -npernode 1" "-x OMPI_MCA_hwloc_base_binding_policy=core"; do
  # shellcheck disable=SC2086  # words
  check "what it is told beside $option" "$keepalive" "$(told "$wrapper" $option defaults)"
done
# A program's own arguments are not for Open MPI, nor are values of options.
for arguments in "defaults train --output runs/cpu-set --bind-to core --hostfile f --mca pml ob1" \
    "-q defaults runs/bind-to-none --map-by x" "-wdir bind-to defaults map-by -H a" \
    "--oversubscribe --mca hwloc_base_report_bindings 1 defaults hostfile" "-x A=hostfile -x bind-to=pernode defaults"; do
  # shellcheck disable=SC2086  # words
  check "what it is told beside a program's arguments: $arguments" "btl=self,vader $binding$keepalive""pml=ob1 " \
    "$(said "$wrapper" $arguments | tr '\n' ' ')"
done
check "what it is told beside the user's" "hwloc_base_binding_policy=core oob_tcp_keepalive_time=9 " \
  "$(told OMPI_MCA_hwloc_base_binding_policy=core OMPI_MCA_oob_tcp_keepalive_time=9 "$wrapper" defaults)"
# Workers that say what may be at fault tell the user's choices from these.
keepalive_names="oob_tcp_keepalive_time,oob_tcp_keepalive_intvl,oob_tcp_keepalive_probes"
check "which of them nobody has chosen" "hwloc_base_binding_policy,$keepalive_names,pml,btl" "$(said "$wrapper" whose)"
check "which of them nobody has chosen beside the user's" "$keepalive_names" \
  "$(said OMPI_MCA_btl=self,tcp "$wrapper" --bind-to core whose)"
memory="btl=self,vader pml=ob1 "
check "transport on this host" "$memory" "$(transport "$wrapper" -np 2 defaults)"
for option in "--host a:2" "-H a" "--hostfile f" "-machinefile f" "--default-hostfile f" "--mca orte_default_hostfile f"; do
  # shellcheck disable=SC2086  # two words
  check "transport with $option" "" "$(transport "$wrapper" $option defaults)"
done
check "the user's transport" "pml=cm " "$(transport OMPI_MCA_pml=cm "$wrapper" defaults)"
check "transport beside --mca btl" "" "$(transport "$wrapper" --mca btl self,tcp defaults)"
check "transport within a job of Slurm" "" "$(transport SLURM_JOB_ID=1 "$wrapper" defaults)"
mkdir "$bin/net/docker0" "$bin/net/br-1"
check "what it is told where there are bridges" \
  "btl_tcp_if_exclude=127.0.0.1/8,sppp,br-1,docker0 $binding""oob_tcp_if_exclude=br-1,docker0 $keepalive" "$(told "$wrapper" defaults)"
check "of bridges beside the user's interfaces" "$binding$keepalive" "$(told "$wrapper" --mca btl_tcp_if_include eth0 defaults)"
check "of bridges beside the environment's" "btl_tcp_if_include=eth0 $binding$keepalive" \
  "$(told OMPI_MCA_btl_tcp_if_include=eth0 "$wrapper" defaults)"
mkdir "$bin/.openmpi"
echo "btl_tcp_if_include = eth0" >"$bin/.openmpi/mca-params.conf"
check "of bridges beside a parameter file" "$binding$keepalive" "$(told "$wrapper" defaults)"
check "transport beside a parameter file of other things" "$memory" "$(transport "$wrapper" defaults)"
printf 'btl = self,tcp\nhwloc_base_binding_policy = core\n# oob_tcp_keepalive_time = 1\n' >"$bin/.openmpi/mca-params.conf"
rmdir "$bin/net/docker0" "$bin/net/br-1"
check "of binding beside a parameter file" "$keepalive" "$(told "$wrapper" defaults)"
check "transport beside a parameter file" "" "$(transport "$wrapper" defaults)"

# stopped HOW SIGNAL...: the exit code of a job of that kind which gets these signals, the first when it is ready.
stopped() {
  local how=$1
  shift
  : >"$NOTES"
  "$wrapper" -np 2 "$how" 2>/dev/null &
  local job=$! code=0
  noted 1
  for signal in "$@"; do
    kill -"$signal" "$job"
    sleep 0.4
  done
  wait "$job" || code=$?
  echo "$code"
}
for signal in TERM USR1 HUP; do
  check "exit code after $signal" 75 "$(stopped program $signal)"
  check "signals after $signal" "USR1 ready " "$(kinds)"
done
check "exit code of a slow save that is asked for again and again" 75 "$(stopped slow USR1 TERM HUP)"
check "its signals" "USR1 ready " "$(kinds)"
check "exit code of a job that does not hear at first" 75 "$(stopped deaf TERM)"
check "exit code of a job whose workers were killed by the request" 75 "$(stopped killed TERM)"
check "exit code of one that was killed by somebody else" 138 "$(
  : >"$NOTES"
  "$wrapper" -np 2 killed 2>/dev/null &
  noted 1
  kill -USR1 "$(cat "$NOTES.pid")"
  code=0
  wait $! || code=$?
  echo "$code"
)"

# A script that is killed cannot ask any more; the job saves and leaves all the same, and nobody goes on alone.
: >"$NOTES"
"$wrapper" -np 2 program 2>/dev/null &
job=$!
noted 1
{ kill -KILL "$job"; wait "$job" || true; } 2>/dev/null
for ((i = 0; i < 100; ++i)); do
  [ -e "/proc/$(cat "$NOTES.pid")" ] || break
  sleep 0.05
done
check "signals after the script was killed" "USR1 ready " "$(kinds)"

# Nor where nobody asks what has become of the script: its parent has become another program.
: >"$NOTES"
sh -c '"$@" 2>/dev/null & echo $! >"$NOTES.script"; exec sleep 20' sh "$wrapper" -np 2 program &
parent=$!
noted 1
kill -KILL "$(cat "$NOTES.script")"
for ((i = 0; i < 100; ++i)); do
  [ -e "/proc/$(cat "$NOTES.pid")" ] || break
  sleep 0.05
done
check "signals after a script was killed that is not waited for" "USR1 ready " "$(kinds)"
{ kill "$parent"; wait "$parent" || true; } 2>/dev/null

# Several at once, as timeout sends them: the handler of one is interrupted by the next.
for ((trial = 0; trial < 10; ++trial)); do
  : >"$NOTES"
  "$wrapper" -np 2 program 2>"$bin/said" &
  job=$!
  noted 1
  for signal in HUP TERM HUP USR1; do kill -"$signal" "$job" 2>/dev/null || true; done  # it may have ended by then
  code=0
  wait "$job" || code=$?
  check "exit code after several signals at once" 75 "$code"
  check "what it says about them" 1 "$(grep -c '^stopping: ' "$bin/said")"
done

# From the first moment at which they are caught, and while the script is still being read.
exec {never}<> <(:)
for ((trial = 0; trial < 25; ++trial)); do
  : >"$NOTES"
  "$wrapper" -np 2 program 2>"$bin/said" &
  job=$!
  until grep -q mpirun.sh "/proc/$job/cmdline"; do :; done  # before it is that script, it has this one's handlers
  until grep -q 'SigCgt:.*[4-7c-f]...$' "/proc/$job/status"; do :; done
  while [ ! -s "$NOTES" ] && kill -TERM "$job" 2>/dev/null; do read -r -t 0.0002 <&"$never" || true; done
  code=0
  wait "$job" || code=$?
  check "exit code after signals during the start" 75 "$code"
  check "what it says about them" "" "$(grep -v '^stopping: ' "$bin/said")"
done

# Nobody reads the log.
: >"$NOTES"
check "exit code of a job whose log is not read" 9 "$(
  set +o pipefail
  { code=0; "$wrapper" talks 2>&1 || code=$?; echo "$code" >"$bin/code"; } | head -n 1 >"$bin/head"
  cat "$bin/code"
)"
check "signals of a job whose log is not read" "" "$(kinds)"

# Ctrl-C at a terminal, twice. The shell between script and the wrapper, which must outlive it to write down its code, is chosen by
# $SHELL.
if command -v script >/dev/null; then
  export SHELL=$BASH
  for how in stubborn "stubborn late" "stubborn says one"; do
    : >"$NOTES"
    rm -f "$bin/code"
    code=0
    { noted 1; printf '\003'; noted 2; sleep 1; printf '\003'; sleep 5; } |
      script -qec "'$wrapper' -np 2 $how; echo \$? >'$bin/code'" /dev/null >/dev/null 2>&1 || code=$?
    check "signals after Ctrl-C twice ($how)" "TERM USR1 ready " "$(kinds)"
    check "exit code after Ctrl-C twice ($how)" 130 "$(cat "$bin/code" 2>/dev/null || echo none)"
  done
fi
[ "$failures" -eq 0 ]
