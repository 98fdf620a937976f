#!/usr/bin/env python3
"""Times training steps of workload w1 in Athanor and in PyTorch on this machine, and prints a table.

    python benches/w1/bench.py                       # everything, three rounds
    python benches/w1/bench.py --only f32 --rounds 5
    python benches/w1/bench.py --no-athanor          # PyTorch alone

Each round runs every contestant once, one after the other, each in a fresh process bound to the same cores, so a noisy
neighbour hits all of them; the table gives medians over the rounds and the median of each round's ratio. PyTorch runs
eager and compiled, with tcmalloc, fused AdamW and its fused attention; "x torch" is against the faster of the two. A run
whose losses are not those of tests/golden/curves/w1/curve.json fails the benchmark. All numbers go to output/bench/w1.json.
"""
import argparse
import glob
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "benches" / "w1"
CURVE = json.loads((ROOT / "tests" / "golden" / "curves" / "w1" / "curve.json").read_text())
TOLERANCE = {"f32": 2e-5, "bf16": 2e-3}  # relative, of the loss of each step
CONFIG = {"f32": "examples/w1.yaml", "bf16": "examples/w1_bf16.yaml"}


def step_flops(c):
    """Floating point operations of one training step: every product once forward and twice backward; attention is causal."""
    rows, h, q, kv = c["batch"] * c["seq"], c["hidden"], c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    weights = c["layers"] * (2 * h * q + 2 * h * kv + 3 * h * c["ffn"]) + c["vocab"] * h
    attention = c["layers"] * 2 * rows * c["seq"] * q  # scores and their product with v, half of the square each
    return 3 * (2 * rows * weights + attention)


def run(command, cpus, environment=None):
    """Runs to the end; (output, wall seconds, peak RSS in MiB)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        child = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, stdout=out, stderr=errors,
            env={**os.environ, **(environment or {})}, preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        _, code, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(code)
        out.seek(0), errors.seek(0)
        text = out.read().decode(errors="replace")
        if child.returncode != 0:
            tail = (text + errors.read().decode(errors="replace")).splitlines()[-25:]
            sys.exit("\n".join([f"failed with {child.returncode}: {' '.join(map(str, command))}", *tail]))
    return text, wall, usage.ru_maxrss / 1024


def result(dtype, steps, wall, rss, warmup):
    """What one run says, after its losses were checked. `steps`: dicts with loss and step_ms."""
    for at, (step, golden) in enumerate(zip(steps, CURVE["loss"])):
        if not abs(step["loss"] / golden - 1) <= TOLERANCE[dtype]:
            sys.exit(f"{dtype}: the loss of step {at + 1} is {step['loss']}, the golden curve says {golden}")
    times = [step["step_ms"] for step in steps]
    if sum(times) / 1e3 > wall:
        sys.exit(f"{dtype}: the steps say {sum(times) / 1e3:.2f} s, the whole process took {wall:.2f} s")
    return {"step_ms": statistics.median(times[warmup:]), "first_s": wall - sum(times[1:]) / 1e3, "rss_mib": rss, "all_ms": times}


def torch(dtype, mode, args, cpus):
    preload = [p for p in glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4") if args.tcmalloc]
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(ROOT / "output" / "bench" / "inductor"), "OMP_NUM_THREADS": str(args.threads)}
    if preload:
        environment["LD_PRELOAD"] = preload[0]
    command = [sys.executable, HERE / "torch_step.py", "output/w1", "--dtype", dtype, "--mode", mode,
               "--steps", args.steps, "--warmup", args.warmup, "--threads", args.threads]
    text, wall, rss = run(command, cpus, environment)
    steps = [json.loads(line) for line in text.splitlines() if line.startswith('{"step"')]
    return result(dtype.split("-")[0], steps, wall, rss, args.warmup)


def athanor(dtype, args, cpus):
    with tempfile.TemporaryDirectory() as folder:
        metrics = pathlib.Path(folder) / "metrics.jsonl"
        command = [args.athanor, "train", CONFIG[dtype], "--set", f"runner_config.stop_step={args.steps}", "--metrics-json", metrics]
        _, wall, rss = run(command, cpus)
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    if len(steps) != args.steps:
        sys.exit(f"athanor wrote {len(steps)} steps of metrics, {args.steps} were asked for")
    return result(dtype, steps, wall, rss, args.warmup)


def compile_seconds(dtype, args, cpus):
    with tempfile.TemporaryDirectory() as folder:
        return run([args.athanor, "compile", CONFIG[dtype], "-o", pathlib.Path(folder) / "plan"], cpus)[1]


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def table(dtype, runs, peaks, flops):
    """Prints the rows of one dtype."""
    of_torch = [name for name in runs if name.startswith("torch")]
    print(f"\n{dtype:<18} {'ms/step':>8} {'range':>13} {'x torch':>8} {'RSS MiB':>8} {'of torch':>8} {'first step':>10} {'of GEMM':>8} {'of units':>8}")
    best = min(of_torch, key=lambda name: median(runs[name], "step_ms"), default=None)
    for name, rounds in runs.items():
        ms, rss = median(rounds, "step_ms"), median(rounds, "rss_mib")
        spread = f"{min(r['step_ms'] for r in rounds):.0f}-{max(r['step_ms'] for r in rounds):.0f}"
        faster = statistics.median(b["step_ms"] / r["step_ms"] for b, r in zip(runs[best], rounds)) if best else float("nan")
        memory = rss / median(runs[best], "rss_mib") if best else float("nan")
        of_gemm, of_units = (flops / (ms / 1e3) / p[dtype] if p.get(dtype) else float("nan") for p in peaks)
        print(f"{name:<18} {ms:8.0f} {spread:>13} {faster:7.2f}x {rss:8.0f} {memory:8.0%} {median(rounds, 'first_s'):9.1f}s {of_gemm:8.0%} {of_units:8.0%}")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--steps", type=int, default=6, help="per run")
    args.add_argument("--warmup", type=int, default=2, help="steps at the start of a run that are not counted")
    args.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    args.add_argument("--only", choices=["f32", "bf16"])
    args.add_argument("--no-athanor", dest="with_athanor", action="store_false")
    args.add_argument("--no-torch", dest="with_torch", action="store_false")
    args.add_argument("--no-tcmalloc", dest="tcmalloc", action="store_false")
    args.add_argument("--masters", action="store_true", help="PyTorch also with bf16 weights and f32 masters by hand (autocast was faster)")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    args.add_argument("--athanor", default=os.environ.get("ATHANOR", target / "release" / "athanor"), help="the command to measure")
    args = args.parse_args()
    if not 1 <= args.warmup < args.steps <= len(CURVE["loss"]):
        sys.exit(f"--warmup and --steps must satisfy 1 <= warmup < steps <= {len(CURVE['loss'])}")
    if args.with_athanor and not shutil.which(str(args.athanor)):
        sys.exit(f"no command {args.athanor}: run `make build`, or give --athanor or --no-athanor")
    cpus = set(sorted(os.sched_getaffinity(0))[: args.threads])
    if not (ROOT / "output" / "w1" / "tokens.bin").exists():
        print(run([sys.executable, HERE / "gen.py", "--out", "output/w1"], cpus)[0].strip())
    output = ROOT / "output" / "bench"
    output.mkdir(parents=True, exist_ok=True)
    run(["cc", "-O2", "-pthread", HERE / "peak.c", "-o", output / "peak"], cpus)

    dtypes = [args.only] if args.only else ["f32", "bf16"]
    runs = {dtype: {} for dtype in dtypes}
    peaks = [{}, {}]  # of the libraries' matrix product, of the multiply-add units
    for turn in range(args.rounds):
        probes = [[output / "peak", args.threads]] if not args.with_torch else [[sys.executable, HERE / "gemm.py", args.threads], [output / "peak", args.threads]]
        for probe, peak in zip(reversed(probes), reversed(peaks)):
            for dtype, flops in json.loads(run(probe, cpus)[0]).items():
                peak[dtype] = max(peak.get(dtype, 0), flops)
        for dtype in dtypes:
            contestants = {}
            if args.with_athanor:
                contestants["athanor"] = lambda: athanor(dtype, args, cpus)
            if args.with_torch:
                contestants["torch eager"] = lambda: torch(dtype, "eager", args, cpus)
                contestants["torch.compile"] = lambda: torch(dtype, "compile", args, cpus)
                if args.masters and dtype == "bf16":
                    contestants["torch masters"] = lambda: torch("bf16-master", "eager", args, cpus)
                    contestants["torch.c masters"] = lambda: torch("bf16-master", "compile", args, cpus)
            for name, measure in contestants.items():
                one = measure()
                runs[dtype].setdefault(name, []).append(one)
                print(f"round {turn + 1}/{args.rounds} {dtype:<4} {name:<15} {one['step_ms']:7.0f} ms/step, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)

    flops = step_flops(CURVE["config"])
    print(f"\nw1: {args.threads} threads, {flops / 1e12:.3f} TFLOP/step, {args.rounds} rounds of {args.steps} steps, the first {args.warmup} not counted")
    for label, peak in zip(("best matrix product of PyTorch's libraries", "multiply-add units"), peaks):
        if peak:
            print(f"{label}: f32 {peak['f32'] / 1e9:.0f} GFLOP/s, bf16 {peak['bf16'] / 1e9:.0f} GFLOP/s")
    for dtype in dtypes:
        table(dtype, runs[dtype], peaks, flops)
    compiled = {dtype: compile_seconds(dtype, args, cpus) for dtype in dtypes} if args.with_athanor else {}
    for dtype, seconds in compiled.items():
        print(f"athanor compile, {dtype}: {seconds:.1f} s")
    report = {"threads": args.threads, "flops": flops, "peak_gemm": peaks[0], "peak_units": peaks[1], "compile_s": compiled, "runs": runs}
    beside = output / "w1.json.part"
    beside.write_text(json.dumps(report, indent=1))
    os.replace(beside, output / "w1.json")
    print(f"all numbers: {(output / 'w1.json').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
