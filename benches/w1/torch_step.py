#!/usr/bin/env python3
"""The PyTorch side of the w1 benchmark: the same model, data and optimizer; one JSON line per step, then a summary.

    python benches/w1/torch_step.py output/w1 --dtype bf16 --mode compile --steps 6

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
import torch.nn.functional as F
from safetensors.torch import load_file


class Norm(torch.nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def linear(inputs, outputs):
    return torch.nn.Linear(inputs, outputs, bias=False)


class Attention(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        h, self.head, self.heads = c["hidden_size"], c["head_dim"], c["num_attention_heads"]
        self.kv = c["num_key_value_heads"]
        self.q_proj, self.o_proj = linear(h, self.heads * self.head), linear(self.heads * self.head, h)
        self.k_proj, self.v_proj = linear(h, self.kv * self.head), linear(h, self.kv * self.head)

    def forward(self, x, cos, sin):
        b, s, _ = x.shape
        q, k, v = (p(x).view(b, s, -1, self.head).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeats = self.heads // self.kv
        k, v = (t[:, :, None].expand(-1, -1, repeats, -1, -1).reshape(b, self.heads, s, self.head) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, s, -1))


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class Mlp(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        h, ffn = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = linear(h, ffn), linear(h, ffn), linear(ffn, h)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = Mlp(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = torch.nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])


class Llama(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = Body(c)
        self.lm_head = linear(c["hidden_size"], c["vocab_size"])
        half = torch.arange(0, c["head_dim"], 2, dtype=torch.float32) / c["head_dim"]
        angles = torch.outer(torch.arange(c["max_position_embeddings"]).float(), c["rope_theta"] ** -half)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens, labels):
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[: tokens.shape[1]].to(x.dtype), self.sin[: tokens.shape[1]].to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        logits = self.lm_head(self.model.norm(x))
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), labels.reshape(-1))


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
    model = Llama(config)
    model.load_state_dict(load_file(args.folder / "init.safetensors"))
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
        loss, norm = loss.item(), norm.item()
        times.append((time.perf_counter() - begin) * 1e3)
        if step == 0:
            first = time.perf_counter() - started
        print(json.dumps({"step": step + 1, "loss": loss, "grad_norm": norm, "step_ms": times[-1]}), flush=True)
    print(json.dumps({
        "summary": f"torch {torch.__version__} {args.mode} {args.dtype}",
        "step_ms": sorted(times[args.warmup :])[len(times[args.warmup :]) // 2],
        "to_first_step_s": first,
        "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rss_steady_mib": status("VmHWM"),
    }))


if __name__ == "__main__":
    main()
