#!/usr/bin/env python3
"""The PyTorch side of a benchmark: the same model, data and optimizer; one JSON line per step, then a summary.

    python benches/torch_step.py output/w1 --dtype bf16 --mode compile --steps 6
    python benches/torch_step.py output/deepseek_mini --experts loop

--dtype f32         everything in f32
--dtype bf16        weights are kept in f32 and autocast computes in bf16
--dtype bf16-master the model holds bf16 weights; the optimizer updates f32 masters and writes the bf16 copies
"""
import argparse
import json
import pathlib
import resource
import time

import torch
from deepseek_mini import deepseek
from safetensors.torch import load_file
from w1 import llama

MODELS = {"llama": llama.Model, "deepseek_v3": deepseek.Model}


class Masters:
    """bf16 weights in the model, f32 masters in the optimizer."""

    def __init__(self, model):
        self.working = list(model.parameters())
        self.masters = [torch.nn.Parameter(p.detach().clone()) for p in self.working]
        for p in self.working:
            p.data = p.data.bfloat16()
        model.cos, model.sin = model.cos.bfloat16(), model.sin.bfloat16()

    def gather(self):
        for master, p in zip(self.masters, self.working):
            master.grad = p.grad.float()
            p.grad = None

    def scatter(self):
        torch._foreach_copy_([p.data for p in self.working], [m.data for m in self.masters])


def status(field):
    """A field of /proc/self/status in MiB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("folder", type=pathlib.Path, help="config.json, init.safetensors and tokens.bin, as gen.py writes")
    args.add_argument("--dtype", default="f32", choices=["f32", "bf16", "bf16-master"])
    args.add_argument("--mode", default="eager", choices=["eager", "compile", "max-autotune"])
    args.add_argument("--experts", default="grouped", choices=deepseek.EXPERTS, help="how routed experts are computed")
    args.add_argument("--steps", type=int, default=6)
    args.add_argument("--batch", type=int, default=8)
    args.add_argument("--seq", type=int, default=512)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--warmup", type=int, default=2, help="steps that the summary leaves out")
    args = args.parse_args()
    started = time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    config = json.loads((args.folder / "config.json").read_text())
    model = MODELS[config["model_type"]](config, args.experts)
    model.load(load_file(args.folder / "init.safetensors"))
    masters = Masters(model) if args.dtype == "bf16-master" else None
    trained = masters.masters if masters else list(model.parameters())
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    loss_of = {"eager": model, "compile": None, "max-autotune": None}[args.mode]
    if loss_of is None:
        loss_of = torch.compile(model, mode="max-autotune" if args.mode == "max-autotune" else None, dynamic=False)
    data = torch.from_file(str(args.folder / "tokens.bin"), dtype=torch.int32, size=args.steps * args.batch * (args.seq + 1))
    data = data.view(args.steps, args.batch, args.seq + 1).long()

    times = []
    for step in range(args.steps):
        if step == args.warmup:
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # restarts the peak of the resident set
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = loss_of(data[step, :, :-1], data[step, :, 1:])
        loss.backward()
        if masters:
            masters.gather()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if masters:
            masters.scatter()
        loads = model.after_step()
        loss, norm = loss.item(), norm.item()
        times.append((time.perf_counter() - begin) * 1e3)
        if step == 0:
            first = time.perf_counter() - started
        print(json.dumps({"step": step + 1, "loss": loss, "grad_norm": norm, "step_ms": times[-1], "expert_load": loads}), flush=True)
    print(json.dumps({
        "summary": f"torch {torch.__version__} {args.mode} {args.dtype}",
        "step_ms": sorted(times[args.warmup :])[len(times[args.warmup :]) // 2],
        "to_first_step_s": first,
        "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rss_steady_mib": status("VmHWM"),
    }))


if __name__ == "__main__":
    main()
