#!/usr/bin/env bash
# What it brings to communicate beside computation: the quickstart on two hosts that share all weights, over a network of so many
# Mbit/s, with the plan's two streams and with all of its steps on one, interleaved. Prints the time of a step of each and their ratio.
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
"$athanor" compile examples/quickstart.yaml -o "$work/two" --threads 1 --set use_parallel=True --set 'callbacks=[]' \
  --set runner_config.batch_size=4 --set parallel_config.data_parallel=2 --set parallel.enable_parallel_optimizer=True \
  --set $parallel.parallel_optimizer_threshold=1 --set recompute_config.parallel_optimizer_comm_recompute=True \
  >/dev/null 2>&1
cp -r "$work/two" "$work/one"
jq -c '(.stages[].programs[].steps[]) |= del(.stream, .after)' "$work/two/plan.json" >"$work/one/plan.json"

# Seconds of a step, the median of all but the first two.
step() {
  rm -f "$work/$1.jsonl"
  launch "$mpirun" 1 train "$work/$1" --steps 8 --quiet --output_dir "$work/out" --metrics-json "$work/$1.jsonl" \
    >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  jq -s '[.[2:][].step_time_s] | sort | .[length / 2 | floor]' "$work/$1.jsonl"
}

for round in $(seq "$rounds"); do
  two=$(step two) one=$(step one)
  echo "round $round: $two s with two streams, $one s with one, ratio $(jq -n "$one / $two * 100 | round / 100")"
done
