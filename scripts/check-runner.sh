#!/usr/bin/env bash
# The runner has no LLVM in it and trains a compiled plan as the full command does. `make test` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}/debug
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "check-runner: $*" >&2; exit 1; }

# The runner first, so that the full command is what stays in its place.
cargo build --quiet --no-default-features
cp "$target/athanor" "$work/runner"
cargo build --quiet
athanor=$target/athanor

symbols() { nm "$1" | grep -cE ' (_ZN4llvm|_ZN4mlir|LLVM[A-Z]|mlir[A-Z])' || true; }
[ "$(symbols "$athanor")" -gt 1000 ] || fail "the full command should have LLVM in it, or this check proves nothing"
[ "$(symbols "$work/runner")" = 0 ] || fail "$(symbols "$work/runner") symbols of LLVM and MLIR in the runner"
! ldd "$work/runner" | grep -i llvm || fail 'the runner is linked with LLVM'

yaml=tests/cli/run.in/tiny.yaml
steps() { sed -E 's/.*"step": *([0-9]+), *"loss": *([^,]+), *"grad_norm": *([^,]+),.*/\1 \2 \3/' "$1"; }
"$athanor" compile "$yaml" -o "$work/plan" --threads 1 >"$work/out"
"$athanor" train "$work/plan" --quiet --output-dir "$work/a" --metrics-json "$work/full.jsonl"
"$work/runner" train "$work/plan" --quiet --output-dir "$work/b" --metrics-json "$work/runner.jsonl"
[ "$(wc -l <"$work/runner.jsonl")" = 20 ] || fail 'the runner did not train 20 steps'
diff <(steps "$work/full.jsonl") <(steps "$work/runner.jsonl") || fail 'the runner trains otherwise than the full command'

"$work/runner" inspect "$work/plan" >"$work/out"
grep -q 'Memory' "$work/out" || fail 'the runner does not show the plan'
if "$work/runner" train "$yaml" 2>"$work/out"; then fail 'the runner took a configuration'; fi
grep -q A0006 "$work/out" || fail 'the runner does not say why it takes no configuration'
echo "check-runner: $(du -h "$work/runner" | cut -f1) without LLVM trains as the full command does"
