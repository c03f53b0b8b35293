#!/usr/bin/env bash
# A SLURM cluster of this one machine, on loopback, for tests. Needs root and, on Debian: apt install slurm-wlm munge
#
#   tests/cluster/slurm_node.sh start FOLDER   writes FOLDER/slurm.conf, starts munged, slurmctld and slurmd
#   tests/cluster/slurm_node.sh stop FOLDER    ends these three processes
#
# While it runs, /etc/slurm/slurm.conf is a link to FOLDER/slurm.conf: Snakemake's job steps know no SLURM_CONF.
# No cgroups, no accounting database, no systemd: proctrack/linuxproc, task/none.
set -euo pipefail
action=${1:?start or stop} folder=$(realpath -m "${2:?a folder}")
link=/etc/slurm/slurm.conf host=$(hostname -s) socket=$folder/munge.sock

stop() {
  for name in slurmd slurmctld munged; do
    if [ -s "$folder/$name.pid" ]; then
      pid=$(cat "$folder/$name.pid")
      kill "$pid" 2>/dev/null || continue
      for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || continue 2; sleep 0.2; done
      kill -KILL "$pid" 2>/dev/null || true # slurmd waits for jobs, and a next one finds its port taken
    fi
  done
  if [ "$(readlink $link)" = "$folder/slurm.conf" ]; then rm $link; fi
}

configure() {
  mkdir -p "$folder"/{state,spool}
  chmod 755 "$folder" # munged refuses a socket that others may not reach, or may replace
  dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
  chmod 600 "$folder/munge.key"
  cat >"$folder/slurm.conf" <<EOF
ClusterName=understudy
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-26817}
SlurmdPort=$((${SLURM_TEST_PORT:-26817} + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a job that is queued again waits until its old credential is over: 2 minutes, were it not for this
AuthInfo=socket=$socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=5,sched_min_interval=500000
JobRequeue=1
KillWait=20
MinJobAge=300
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=${SLURM_TEST_CPUS:-2} RealMemory=${SLURM_TEST_MEMORY:-4000} State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=60 State=UP
EOF
}

# A test that was killed leaves its link, and perhaps its processes.
left_behind() {
  [ -L $link ] && grep -qsx "ClusterName=understudy" $link || return 0
  local other
  other=$(dirname "$(readlink $link)")
  if kill -0 "$(cat "$other/slurmctld.pid" 2>/dev/null)" 2>/dev/null; then
    echo "the test's SLURM in $other still runs: $0 stop $other" >&2; exit 1
  fi
  rm $link
}

start() {
  for name in munged slurmctld slurmd; do
    command -v "$name" >/dev/null || { echo "there is no $name: apt install slurm-wlm munge" >&2; exit 1; }
  done
  [ "$(id -u)" = 0 ] || { echo "slurmd needs root" >&2; exit 1; }
  left_behind
  if [ -e $link ]; then echo "$link is there: this machine has a SLURM of its own" >&2; exit 1; fi
  configure
  mkdir -p /etc/slurm && ln -sfn "$folder/slurm.conf" $link
  munged --force --key-file="$folder/munge.key" --socket="$socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  slurmctld -c
  slurmd -c
  for _ in $(seq 150); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then exit 0; fi
    sleep 0.2
  done
  sinfo >&2
  tail -n 20 "$folder"/*.log >&2
  exit 1
}

case $action in start) start ;; stop) stop ;; *) echo "start or stop?" >&2; exit 2 ;; esac
