#!/usr/bin/env python3
"""Writes the weights and tokens of a workload, bit-exactly from the rules in tests/golden/README.md.

    python3 benches/gen.py                           # w1 into output/w1: config.json, init.safetensors, tokens.bin
    python3 benches/gen.py --workload deepseek_mini
    python3 benches/gen.py --workload w1-tiny --out output/w1-tiny

Needs NumPy only. Every weight is checked against the SHA-256 in curve.json before anything is written.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import struct
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "curves"
FOLDERS = {"w1": GOLDEN / "w1", "w1-tiny": GOLDEN / "w1-tiny", "deepseek_mini": ROOT / "benches" / "deepseek_mini"}
GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
SCALE = np.float32(0.02 * 3.0**0.5 / (1 << 23))


def fnv1a64(text):
    hashed = 0xCBF29CE484222325
    for byte in text.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & MASK
    return hashed


def splitmix64(seed, first, count):
    """Outputs number `first` .. `first + count - 1` (from 1) of the stream, as u64."""
    steps = np.arange(first, first + count, dtype=np.uint64)
    z = steps * np.uint64(GAMMA) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def llama_layer(c, at, _layer):
    h, q, kv = c["hidden"], c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    yield at + "input_layernorm.weight", (h,)
    yield at + "self_attn.q_proj.weight", (q, h)
    yield at + "self_attn.k_proj.weight", (kv, h)
    yield at + "self_attn.v_proj.weight", (kv, h)
    yield at + "self_attn.o_proj.weight", (h, q)
    yield at + "post_attention_layernorm.weight", (h,)
    yield from mlp(at + "mlp.", h, c["ffn"])


def deepseek_layer(c, at, layer):
    h, heads, rope = c["hidden"], c["heads"], c["rope"]
    yield at + "input_layernorm.weight", (h,)
    yield at + "self_attn.q_a_proj.weight", (c["q_lora"], h)
    yield at + "self_attn.q_a_layernorm.weight", (c["q_lora"],)
    yield at + "self_attn.q_b_proj.weight", (heads * (c["nope"] + rope), c["q_lora"])
    yield at + "self_attn.kv_a_proj_with_mqa.weight", (c["kv_lora"] + rope, h)
    yield at + "self_attn.kv_a_layernorm.weight", (c["kv_lora"],)
    yield at + "self_attn.kv_b_proj.weight", (heads * (c["nope"] + c["v_dim"]), c["kv_lora"])
    yield at + "self_attn.o_proj.weight", (h, heads * c["v_dim"])
    yield at + "post_attention_layernorm.weight", (h,)
    if layer < c["dense_layers"]:
        yield from mlp(at + "mlp.", h, c["ffn"])
        return
    yield at + "mlp.gate.weight", (c["experts"], h)
    yield at + "mlp.gate.e_score_correction_bias", (c["experts"],)
    for expert in range(c["experts"]):
        yield from mlp(f"{at}mlp.experts.{expert}.", h, c["moe_ffn"])
    yield from mlp(at + "mlp.shared_experts.", h, c["moe_ffn"] * c["shared"])


def mlp(at, h, ffn):
    yield at + "gate_proj.weight", (ffn, h)
    yield at + "up_proj.weight", (ffn, h)
    yield at + "down_proj.weight", (h, ffn)


def shapes(c):
    """Names and shapes of the weights in the order of the model, [out, in] as Hugging Face stores them."""
    layer_of = {"llama": llama_layer, "dsv3": deepseek_layer}[c["kind"]]
    yield "model.embed_tokens.weight", (c["vocab"], c["hidden"])
    for layer in range(c["layers"]):
        yield from layer_of(c, f"model.layers.{layer}.", layer)
    yield "model.norm.weight", (c["hidden"],)
    yield "lm_head.weight", (c["vocab"], c["hidden"])


def weight(name, shape):
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    if name.endswith("e_score_correction_bias"):
        return np.zeros(shape, np.float32)
    u = (splitmix64(fnv1a64(name), 1, int(np.prod(shape))) >> np.uint64(40)).astype(np.int64) - (1 << 23)
    return (u.astype(np.float32) * SCALE).reshape(shape)


def tokens(workload, c, steps):
    """[steps, batch, seq + 1] i32."""
    rows, length, vocab = steps * c["batch"], c["seq"] + 1, np.uint64(c["vocab"])
    z = splitmix64(fnv1a64("tokens/" + workload), 1, rows * length * 2).reshape(rows, length, 2)
    r = z[..., 0] >> np.uint64(40)
    skew = ((r * r >> np.uint64(24)) * r) >> np.uint64(24)
    drawn = (skew * vocab) >> np.uint64(24)
    follows = z[..., 1] >> np.uint64(63) == 1
    out = np.empty((rows, length), np.uint64)
    out[:, 0] = drawn[:, 0]
    for i in range(1, length):
        out[:, i] = np.where(follows[:, i], (out[:, i - 1] * np.uint64(5) + np.uint64(17)) % vocab, drawn[:, i])
    return out.astype("<i4").reshape(steps, c["batch"], length)


def write_safetensors(path, tensors):
    """Header (u64 length, JSON), then the tensors one after the other; written beside and renamed."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    beside = path.with_suffix(".part")
    with open(beside, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.astype("<f4", copy=False).tobytes())
    os.replace(beside, path)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--workload", default="w1", choices=sorted(FOLDERS))
    args.add_argument("--out", type=pathlib.Path, help="folder to write; default output/<workload>")
    args.add_argument("--steps", type=int, default=20, help="steps worth of tokens")
    args = args.parse_args()
    out = args.out or pathlib.Path("output") / args.workload
    curve = json.loads((FOLDERS[args.workload] / "curve.json").read_text())
    config, expected = curve["config"], curve["init"]["sha256_16"]
    weights = {}
    for name, shape in shapes(config):
        weights[name] = weight(name, shape)
        found = hashlib.sha256(weights[name].tobytes()).hexdigest()[:16]
        if found != expected[name]:
            sys.exit(f"{name}: SHA-256 starts with {found}, the golden curve says {expected[name]}")
    if set(weights) != set(expected):
        sys.exit(f"weights that only one side knows: {sorted(set(weights) ^ set(expected))}")
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(out / "init.safetensors", weights)
    tokens(args.workload, config, args.steps).tofile(out / "tokens.bin")
    shutil.copy(FOLDERS[args.workload] / "config.json", out / "config.json")
    print(f"{out}: {len(weights)} weights, {sum(w.size for w in weights.values()):,} elements, all as in curve.json")


if __name__ == "__main__":
    main()
