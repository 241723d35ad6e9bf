# shellcheck shell=bash
# A cluster of Slurm on hosts that are up: slurm_up CONTROLLER NODE...; commands then run with `slurm COMMAND...` on the controller.
# Sourced after training.sh.

slurm() { hosts run "$controller" env SLURM_CONF="$work/slurm.conf" "$@"; }

# slurm_here: skips the test where Slurm is not installed.
slurm_here() {
  local tool
  for tool in slurmctld slurmd munged sbatch srun scontrol; do
    PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || { echo "SKIPPED: $tool was not found (slurmctld, slurmd, slurm-client, munge)"; exit 77; }
  done
}

# slurm_start HOST: its daemons, as after it was booted.
slurm_start() {
  local daemon="slurmd -N $1"
  [ "$1" != "$controller" ] || daemon="slurmctld -i"
  # shellcheck disable=SC2016  # expanded there
  hosts run "$1" env SLURM_CONF="$work/slurm.conf" sh -c 'PATH=$PATH:/usr/sbin
    mkdir -p -m 755 /run/munge /run/slurm /run/slurm/spool && cp "$0/munge.key" /run/munge/key && chmod 600 /run/munge/key &&
    munged --force --key-file=/run/munge/key --socket=/run/munge/munge.socket.2 --pid-file=/run/munge/pid \
      --log-file=/run/munge/log --seed-file=/run/munge/seed && '"$daemon" "$work" >>"$work/slurm_$1.log" 2>&1
}

slurm_up() {
  controller=$1
  shift
  (umask 077 && head -c 1024 /dev/urandom >"$work/munge.key")
  mkdir -p "$work/slurm_state"
  cat >"$work/slurm.conf" <<END
ClusterName=namespaces
SlurmctldHost=$controller
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=/run/munge/munge.socket.2
StateSaveLocation=$work/slurm_state
SlurmdSpoolDir=/run/slurm/spool
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=5
ReturnToService=2
TmpFS=/run/tmp
MailProg=/bin/true
SchedulerParameters=requeue_delay=1,batch_sched_delay=0,sched_min_interval=0
NodeName=$(IFS=,; echo "$*") CPUs=2 Sockets=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  local host
  for host in "$controller" "$@"; do slurm_start "$host"; done
}
