#!/usr/bin/env python3
"""Times training steps in Athanor and in PyTorch on this machine, and prints a table for each workload.

    python benches/bench.py                          # everything, three rounds
    python benches/bench.py --workload w1 --only f32 --rounds 5
    python benches/bench.py --no-athanor             # PyTorch alone

w1 is a Llama, deepseek_mini a DeepSeek-V3 with 16 experts, both with 8 x 512 tokens a step. Each round runs every contestant
once, one after the other, each in a fresh process bound to the same cores, so a noisy neighbour hits all of them; the table
gives medians over the rounds and the median of each round's ratio. PyTorch runs eager and compiled, with tcmalloc, fused
AdamW and its fused attention, experts in three ways (benches/deepseek_mini/deepseek.py); "x torch" is against the fastest. On a
CPU without instructions for bf16 PyTorch computes in f32 beside our bf16. A run whose losses are not those of the workload's
curve.json fails the benchmark. All numbers go to output/bench/.
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

ROOT = pathlib.Path(__file__).resolve().parents[1]
HERE = ROOT / "benches"


class Workload:
    """What is trained: the curve to follow, the configurations of Athanor, the ways of PyTorch."""

    def __init__(self, name, folder, configs, tolerance, torch):
        self.name, self.configs, self.tolerance, self.torch = name, configs, tolerance, torch
        curve = json.loads((ROOT / folder / "curve.json").read_text())
        self.config, self.loss = curve["config"], curve["loss"]


DEEPSEEK = "benches/deepseek_mini/train.yaml"

# Arguments of athanor and of torch_step.py. Tolerances are relative, of the loss of each step; a token that a rounding sends to another expert
# moves the loss more than a rounding does.
WORKLOADS = [
    Workload(
        "w1", "tests/golden/curves/w1", {"f32": ["examples/w1.yaml"], "bf16": ["examples/w1_bf16.yaml"]}, {"f32": 2e-5, "bf16": 2e-3},
        {"torch eager": [], "torch.compile": ["--mode", "compile"]},
    ),
    Workload(
        "deepseek_mini", "benches/deepseek_mini",
        {"f32": [DEEPSEEK], "bf16": [DEEPSEEK, "--set", "model.model_config.compute_dtype=bfloat16"]},
        {"f32": 1e-4, "bf16": 5e-3},
        {
            "torch loop": ["--experts", "loop"],
            "torch sorted": ["--experts", "sorted"],
            "torch grouped": ["--experts", "grouped"],
            "torch.compile": ["--experts", "grouped", "--mode", "compile"],
        },
    ),
]


def step_flops(c):
    """Floating point operations of one training step: every product once forward and twice backward; attention is causal."""
    rows, h, heads = c["batch"] * c["seq"], c["hidden"], c["heads"]
    if c["kind"] == "dsv3":
        qk, v = c["nope"] + c["rope"], c["v_dim"]
        q = c["q_lora"] * (h + heads * qk)
        kv = h * (c["kv_lora"] + c["rope"]) + c["kv_lora"] * heads * (c["nope"] + v)
        moe = h * c["experts"] + (c["top_k"] + c["shared"]) * 3 * h * c["moe_ffn"]
        dense = c["dense_layers"]
        weights = c["layers"] * (q + kv + heads * v * h) + dense * 3 * h * c["ffn"] + (c["layers"] - dense) * moe
    else:
        qk = v = c["head_dim"]
        weights = c["layers"] * (2 * h * heads * qk + 2 * h * c["kv_heads"] * qk + 3 * h * c["ffn"])
    attention = c["layers"] * rows * c["seq"] * heads * (qk + v)  # scores and their product with v, half of the square each
    return 3 * (2 * rows * (weights + c["vocab"] * h) + attention)


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


def result(work, dtype, steps, wall, rss, warmup):
    """What one run says, after its losses were checked. `steps`: dicts with loss and step_ms."""
    for at, (step, golden) in enumerate(zip(steps, work.loss)):
        if not abs(step["loss"] / golden - 1) <= work.tolerance[dtype]:
            sys.exit(f"{work.name} {dtype}: the loss of step {at + 1} is {step['loss']}, the curve says {golden}")
    times = [step["step_ms"] for step in steps]
    if sum(times) / 1e3 > wall:
        sys.exit(f"{work.name} {dtype}: the steps say {sum(times) / 1e3:.2f} s, the whole process took {wall:.2f} s")
    return {"step_ms": statistics.median(times[warmup:]), "first_s": wall - sum(times[1:]) / 1e3, "rss_mib": rss, "all_ms": times}


def tcmalloc():
    """The library, if it is installed; PyTorch is faster with it."""
    return glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4")


def has_bf16():
    """Whether the CPU multiplies bf16. Where it does not, PyTorch takes minutes for a step in bf16, and its best is f32."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def torch(work, dtype, how, args, cpus):
    preload = tcmalloc() if args.tcmalloc else []
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(ROOT / "output" / "bench" / "inductor"), "OMP_NUM_THREADS": str(args.threads)}
    if preload:
        environment["LD_PRELOAD"] = preload[0]
    command = [sys.executable, HERE / "torch_step.py", f"output/{work.name}", "--dtype", dtype, *how,
               "--steps", args.steps, "--warmup", args.warmup, "--threads", args.threads]
    text, wall, rss = run(command, cpus, environment)
    steps = [json.loads(line) for line in text.splitlines() if line.startswith('{"step"')]
    return result(work, dtype.split("-")[0], steps, wall, rss, args.warmup)


def athanor(work, dtype, args, cpus):
    with tempfile.TemporaryDirectory() as folder:
        metrics = pathlib.Path(folder) / "metrics.jsonl"
        command = [args.athanor, "train", *work.configs[dtype], "--set", f"runner_config.stop_step={args.steps}", "--metrics-json", metrics]
        _, wall, rss = run(command, cpus)
        steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    if len(steps) != args.steps:
        sys.exit(f"athanor wrote {len(steps)} steps of metrics, {args.steps} were asked for")
    return result(work, dtype, steps, wall, rss, args.warmup)


def compile_seconds(work, dtype, args, cpus):
    with tempfile.TemporaryDirectory() as folder:
        return run([args.athanor, "compile", *work.configs[dtype], "-o", pathlib.Path(folder) / "plan"], cpus)[1]


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def table(dtype, runs, peaks, flops):
    """Prints the rows of one dtype; the ratio of each round is to the way of PyTorch that is the fastest over all."""
    of_torch = [name for name in runs if name.startswith("torch")]
    print(f"\n{dtype:<18} {'ms/step':>8} {'range':>13} {'x torch':>8} {'RSS MiB':>8} {'of torch':>8} {'first step':>10} {'of GEMM':>8} {'of units':>8}")
    units = dtype if has_bf16() else "f32"
    best = min(of_torch, key=lambda name: median(runs[name], "step_ms"), default=None)
    for name, rounds in runs.items():
        ms, rss = median(rounds, "step_ms"), median(rounds, "rss_mib")
        spread = f"{min(r['step_ms'] for r in rounds):.0f}-{max(r['step_ms'] for r in rounds):.0f}"
        faster = statistics.median(b["step_ms"] / r["step_ms"] for b, r in zip(runs[best], rounds)) if best else float("nan")
        memory = rss / median(runs[best], "rss_mib") if best else float("nan")
        of_gemm, of_units = (flops / (ms / 1e3) / p[units] if p.get(units) else float("nan") for p in peaks)
        print(f"{name:<18} {ms:8.0f} {spread:>13} {faster:7.2f}x {rss:8.0f} {memory:8.0%} {median(rounds, 'first_s'):9.1f}s {of_gemm:8.0%} {of_units:8.0%}")


def contestants(work, dtype, args, cpus):
    """Name and measurement of each."""
    found = {}
    if args.with_athanor:
        found["athanor"] = lambda: athanor(work, dtype, args, cpus)
    ways = {name: how for name, how in work.torch.items() if not args.ways or name.removeprefix("torch").strip(" .") in args.ways}
    for name, how in ways.items() if args.with_torch else []:
        if dtype == "bf16" and not has_bf16():
            found[f"{name} f32"] = lambda how=how: torch(work, "f32", how, args, cpus)
            continue
        found[name] = lambda how=how: torch(work, dtype, how, args, cpus)
        if args.masters and dtype == "bf16":
            found[f"{name} m"] = lambda how=how: torch(work, "bf16-master", how, args, cpus)
    return found


def peaks_of(args, cpus, output, peaks):
    """Raises `peaks` (of the libraries' matrix product, of the multiply-add units) to what is measured now."""
    probes = [[output / "peak", args.threads]] if not args.with_torch else [[sys.executable, HERE / "gemm.py", args.threads], [output / "peak", args.threads]]
    for probe, peak in zip(reversed(probes), reversed(peaks)):
        for dtype, flops in json.loads(run(probe, cpus)[0]).items():
            peak[dtype] = max(peak.get(dtype, 0), flops)


def measure(work, args, cpus, output):
    """All rounds of one workload: its table, and its report on the disk."""
    if not (ROOT / "output" / work.name / "tokens.bin").exists():
        print(run([sys.executable, HERE / "gen.py", "--workload", work.name, "--out", f"output/{work.name}"], cpus)[0].strip())
    dtypes = [args.only] if args.only else ["f32", "bf16"]
    runs = {dtype: {} for dtype in dtypes}
    peaks = [{}, {}]
    for turn in range(args.rounds):
        peaks_of(args, cpus, output, peaks)
        measured = {}  # in this round; PyTorch's f32 may stand for its bf16
        for dtype in dtypes:
            for name, one in contestants(work, dtype, args, cpus).items():
                found = measured.get(name.removesuffix(" f32")) if name.endswith(" f32") else None
                found = measured[name] = found or one()
                runs[dtype].setdefault(name, []).append(found)
                print(f"{work.name} {turn + 1}/{args.rounds} {dtype:<4} {name:<15} {found['step_ms']:7.0f} ms/step, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)

    flops = step_flops(work.config)
    print(f"\n{work.name}: {args.threads} threads, {flops / 1e12:.3f} TFLOP/step, {args.rounds} rounds of {args.steps} steps, the first {args.warmup} not counted")
    for label, peak in zip(("best matrix product of PyTorch's libraries", "multiply-add units"), peaks):
        if peak:
            print(f"{label}: f32 {peak['f32'] / 1e9:.0f} GFLOP/s, bf16 {peak['bf16'] / 1e9:.0f} GFLOP/s")
    for dtype in dtypes:
        table(dtype, runs[dtype], peaks, flops)
    compiled = {dtype: compile_seconds(work, dtype, args, cpus) for dtype in dtypes if args.with_athanor}
    for dtype, seconds in compiled.items():
        print(f"athanor compile, {dtype}: {seconds:.1f} s")
    report = {"threads": args.threads, "flops": flops, "peak_gemm": peaks[0], "peak_units": peaks[1], "compile_s": compiled, "runs": runs}
    place = output / f"{work.name}.json"
    beside = place.with_suffix(".json.part")
    beside.write_text(json.dumps(report, indent=1))
    os.replace(beside, place)
    print(f"all numbers: {place.relative_to(ROOT)}")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--workload", choices=[w.name for w in WORKLOADS], help="this one only")
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--steps", type=int, default=6, help="per run")
    args.add_argument("--warmup", type=int, default=2, help="steps at the start of a run that are not counted")
    args.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    args.add_argument("--only", choices=["f32", "bf16"])
    args.add_argument("--ways", nargs="*", help="of PyTorch, only these: eager, compile, loop, sorted, grouped")
    args.add_argument("--no-athanor", dest="with_athanor", action="store_false")
    args.add_argument("--no-torch", dest="with_torch", action="store_false")
    args.add_argument("--no-tcmalloc", dest="tcmalloc", action="store_false")
    args.add_argument("--masters", action="store_true", help="PyTorch also with bf16 weights and f32 masters by hand (autocast was faster)")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    args.add_argument("--athanor", default=os.environ.get("ATHANOR", target / "release" / "athanor"), help="the command to measure")
    args = args.parse_args()
    workloads = [w for w in WORKLOADS if args.workload in (None, w.name)]
    most = min(len(w.loss) for w in workloads)
    if not 1 <= args.warmup < args.steps <= most:
        sys.exit(f"--warmup and --steps must satisfy 1 <= warmup < steps <= {most}")
    if args.with_athanor and not shutil.which(str(args.athanor)):
        sys.exit(f"no command {args.athanor}: run `make build`, or give --athanor or --no-athanor")
    cpus = set(sorted(os.sched_getaffinity(0))[: args.threads])
    output = ROOT / "output" / "bench"
    output.mkdir(parents=True, exist_ok=True)
    if args.with_torch and args.tcmalloc and not tcmalloc():
        sys.exit("no libtcmalloc_minimal.so.4: run `scripts/setup.sh bench`, or give --no-tcmalloc")
    run(["cc", "-O2", "-pthread", HERE / "peak.c", "-o", output / "peak"], cpus)
    for work in workloads:
        measure(work, args, cpus, output)


if __name__ == "__main__":
    main()
