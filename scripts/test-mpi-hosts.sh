#!/usr/bin/env bash
# Trains over two hosts that are network namespaces of this machine, each with its own address, host name and process numbers:
# what mpirun starts on the other host it starts through `ip netns exec` instead of ssh. Compares with `--devices 4`, then kills a
# rank of the other host. Needs root, iproute2, util-linux and an mpirun; `make test-mpi` runs it where it can.
#   scripts/test-mpi-hosts.sh ATHANOR [MPIRUN...]
set -euo pipefail

athanor=$(realpath "${1:?the athanor command}")
shift
if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null || ! command -v unshare >/dev/null; then
  echo 'several hosts: skipped, this needs root, ip and unshare'
  exit 0
fi
[ $# -gt 0 ] || set -- mpirun.openmpi mpirun.mpich
work=$(mktemp -d)
name=athanor-$$
net=10.213.77

cleanup() {
  for host in 1 2; do
    ip netns pids "$name-$host" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$name-$host" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap cleanup EXIT

for host in 1 2; do ip netns add "$name-$host"; done
ip link add "ath$$a" netns "$name-1" type veth peer name "ath$$b" netns "$name-2"
ip -n "$name-1" addr add "$net.1/24" dev "ath$$a"
ip -n "$name-2" addr add "$net.2/24" dev "ath$$b"
for host in 1 2; do
  ip -n "$name-$host" link set lo up
  ip -n "$name-$host" link set "ath$$$([ $host = 1 ] && echo a || echo b)" up
done

# A host of its own: network, name, processes. Arguments are a command.
cat > "$work/on" <<SCRIPT
#!/bin/sh
host=\$1; shift
exec ip netns exec $name-\$host unshare --uts --pid --fork --kill-child --mount-proc \\
  sh -c 'hostname "\$0"; exec "\$@"' "ath-host-\$host" "\$@"
SCRIPT
# What mpirun takes for ssh: options, a host, a command for its shell.
cat > "$work/agent" <<SCRIPT
#!/bin/sh
while case "\$1" in -*) true ;; *) false ;; esac; do shift; done
host=\${1##*.}; shift
exec $work/on "\$host" sh -c "\$*"
SCRIPT
chmod +x "$work/on" "$work/agent"

settings=(--set use_parallel=True --set runner_config.batch_size=1 --set parallel_config.data_parallel=2
  --set parallel_config.model_parallel=2)
"$athanor" compile examples/w1_tiny.yaml -o "$work/plan" --threads 1 "${settings[@]}" --set 'callbacks=[]' >/dev/null
"$athanor" compile examples/w1_tiny.yaml -o "$work/long" --threads 1 "${settings[@]}" --set 'callbacks=[]' \
  --set runner_config.epochs=100000 >/dev/null
"$athanor" train "$work/plan" --quiet --output_dir "$work/out" --metrics-json "$work/local.jsonl"
numbers() { sed -E 's/.*("step":[0-9]+,"loss":[^,]*,"grad_norm":[^,]*),.*/\1/' "$1"; }

# Runs `athanor ARGUMENTS` on four ranks, two on each host.
launch() {
  local mpirun=$1
  shift
  case $("$mpirun" --version 2>&1) in
    *HYDRA*) set -- -launcher ssh -launcher-exec "$work/agent" -hosts "$net.1:2,$net.2:2" -n 4 "$athanor" "$@" ;;
    *' 5.'*) set -- --allow-run-as-root --oversubscribe --prtemca plm_ssh_agent "$work/agent" --host "$net.1:2,$net.2:2" \
      -n 4 "$athanor" "$@" ;;
    *) set -- --allow-run-as-root --oversubscribe --mca plm_rsh_agent "$work/agent" --host "$net.1:2,$net.2:2" \
      -n 4 "$athanor" "$@" ;;
  esac
  "$work/on" 1 timeout 120 "$mpirun" "$@"
}

for mpirun in "$@"; do
  command -v "$mpirun" >/dev/null || { echo "several hosts: $mpirun is not here"; continue; }
  mpirun=$(command -v "$mpirun")
  rm -f "$work/mpi.jsonl"
  launch "$mpirun" train "$work/plan" --output_dir "$work/out" --metrics-json "$work/mpi.jsonl" >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
  cmp <(numbers "$work/local.jsonl") <(numbers "$work/mpi.jsonl")
  [ "$(wc -l <"$work/mpi.jsonl")" -gt 5 ]
  echo "$mpirun: two hosts give the numbers of one process"

  rm -f "$work/mpi.jsonl"
  launch "$mpirun" train "$work/long" --output_dir "$work/out" --metrics-json "$work/mpi.jsonl" >"$work/log" 2>&1 &
  running=$!
  for _ in $(seq 300); do [ "$(wc -l 2>/dev/null <"$work/mpi.jsonl" || echo 0)" -gt 5 ] && break || sleep 0.1; done
  victim=''
  for pid in $(ip netns pids "$name-2"); do
    [ "$(readlink "/proc/$pid/exe")" = "$athanor" ] || continue
    tr '\0' '\n' <"/proc/$pid/environ" | grep -qxE '(OMPI_COMM_WORLD_RANK|PMI_RANK)=3' && { victim=$pid; break; }
  done
  [ -n "$victim" ] || { cat "$work/log"; echo "$mpirun: rank 3 is not on the other host"; exit 1; }
  start=$(date +%s)
  kill -9 "$victim"
  wait "$running" && { echo "$mpirun: the run did not fail"; exit 1; }
  took=$(($(date +%s) - start))
  tr -s ' │\n' ' ' <"$work/log" | grep -q 'rank 3 has died, and is missing from' || { cat "$work/log"; exit 1; }
  [ "$took" -le 10 ] || { echo "$mpirun: $took s"; exit 1; }
  echo "$mpirun: a rank that was killed on the other host is named after $took s"
done
