#!/usr/bin/env bash
# What it brings to communicate beside computation: the quickstart on two hosts that share all weights, over a network of so many
# Mbit/s, with the plan's two streams and with `--no-overlap`, interleaved. Prints the time of a step of each and their ratio.
#   benches/overlap.sh ATHANOR [MBIT [ROUNDS [MPIRUN]]]
# Needs root, iproute2, util-linux, jq and an mpirun; the text of the quickstart, which `make demo` prepares.
set -euo pipefail

athanor=$(realpath "${1:?the athanor command}")
mbit=${2:-1000} rounds=${3:-3} mpirun=$(command -v "${4:-mpirun}")
patience=600
. "$(dirname "$0")/../scripts/two-hosts.sh"
for host in 1 2; do
  device=ath$$$([ $host = 1 ] && echo a || echo b)
  ip netns exec "$name-$host" tc qdisc add dev "$device" root tbf rate "${mbit}mbit" burst 1mb latency 200ms
done

parallel=parallel.parallel_optimizer_config
"$athanor" compile examples/quickstart.yaml -o "$work/plan" --threads 1 --set use_parallel=True --set 'callbacks=[]' --output_dir "$work/out" \
  --set runner_config.batch_size=4 --set parallel_config.data_parallel=2 --set parallel.enable_parallel_optimizer=True \
  --set $parallel.parallel_optimizer_threshold=1 --set recompute_config.parallel_optimizer_comm_recompute=True \
  >/dev/null 2>&1

# Milliseconds of a step, the median of all but the first two.
step() {
  rm -f "$work/metrics.jsonl"
  launch "$mpirun" 1 train "$work/plan" --steps 8 --quiet --metrics-json "$work/metrics.jsonl" "$@" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
  jq -s '[.[2:][].step_ms] | sort | .[length / 2 | floor] | round' "$work/metrics.jsonl"
}

for round in $(seq "$rounds"); do
  two=$(step) one=$(step --no-overlap)
  echo "round $round: $two ms with two streams, $one ms with one, ratio $(jq -n "$one / $two * 100 | round / 100")"
done
