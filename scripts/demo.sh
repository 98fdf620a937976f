#!/usr/bin/env bash
# The quickstart from text to a trained model: tokenizer, data set, training, loss plot, checkpoint. `make demo` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

athanor=${ATHANOR:-${CARGO_TARGET_DIR:-target}/release/athanor}
out=output/quickstart
[ -x "$athanor" ] || { echo "demo: no $athanor; run: make build" >&2; exit 1; }

title() { printf '\n== %s\n' "$*"; }
show() { printf '$ athanor %s\n' "$*"; "$athanor" "$@"; }

rm -rf "$out"
mkdir -p "$out/data"

title 'A tokenizer of 4096 byte-level pieces, learnt from three novels'
show data train-tokenizer --input 'examples/data/*.txt' --vocab-size 4096 --output "$out/tokenizer.json"

title 'The data set: one document a paragraph, as .bin and .idx'
show data build --input 'examples/data/*.txt' --vocab-file "$out/tokenizer.json" --output-prefix "$out/data/novels" --append-eod --workers 2

title 'Training: 200 steps, two to three minutes on two cores'
show train examples/quickstart.yaml --metrics-json "$out/metrics.jsonl" --plot "$out/loss.svg"

# transformers finds the tokenizer beside the weights
weights=$(find "$out" -name model.safetensors -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
[ -n "$weights" ] || { echo "demo: training left no model.safetensors below $out" >&2; exit 1; }
model=$(dirname "$weights")
cp "$out"/tokenizer*.json "$model/"

loss() { sed -nE 's/.*"loss": *([0-9.]+).*/\1/p' "$out/metrics.jsonl" | "$1" -n 1; }
title 'Done'
printf 'loss       %s at the first step, %s at the last\n' "$(loss head)" "$(loss tail)"
printf 'plot       %s (the loss, and the load of the experts below it)\nmetrics    %s\nmodel      %s (config.json, model.safetensors, tokenizer.json: transformers loads it)\n' \
  "$out/loss.svg" "$out/metrics.jsonl" "$model"
