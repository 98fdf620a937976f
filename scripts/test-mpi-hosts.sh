#!/usr/bin/env bash
# Trains over two hosts that are network namespaces of this machine. Compares with `--devices 4`, then kills a rank of the other
# host. Needs root, iproute2, util-linux and an mpirun; `make test-mpi` runs it where it can.
#   scripts/test-mpi-hosts.sh ATHANOR [MPIRUN...]
set -euo pipefail

athanor=$(realpath "${1:?the athanor command}")
shift
[ $# -gt 0 ] || set -- mpirun.openmpi mpirun.mpich
. "$(dirname "$0")/two-hosts.sh"

settings=(--set use_parallel=True --set runner_config.batch_size=1 --set parallel_config.data_parallel=2
  --set parallel_config.model_parallel=2)
"$athanor" compile examples/w1_tiny.yaml -o "$work/plan" --threads 1 "${settings[@]}" --set 'callbacks=[]' >/dev/null
"$athanor" compile examples/w1_tiny.yaml -o "$work/long" --threads 1 "${settings[@]}" --set 'callbacks=[]' \
  --set runner_config.epochs=100000 >/dev/null
"$athanor" train "$work/plan" --quiet --output_dir "$work/out" --metrics-json "$work/local.jsonl"
numbers() { sed -E 's/.*("step":[0-9]+,"loss":[^,]*,"grad_norm":[^,]*),.*/\1/' "$1"; }

for mpirun in "$@"; do
  command -v "$mpirun" >/dev/null || { echo "several hosts: $mpirun is not here"; continue; }
  mpirun=$(command -v "$mpirun")
  rm -f "$work/mpi.jsonl"
  launch "$mpirun" 2 train "$work/plan" --output_dir "$work/out" --metrics-json "$work/mpi.jsonl" >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
  cmp <(numbers "$work/local.jsonl") <(numbers "$work/mpi.jsonl")
  [ "$(wc -l <"$work/mpi.jsonl")" -gt 5 ]
  echo "$mpirun: two hosts give the numbers of one process"

  rm -f "$work/mpi.jsonl"
  launch "$mpirun" 2 train "$work/long" --output_dir "$work/out" --metrics-json "$work/mpi.jsonl" >"$work/log" 2>&1 &
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
