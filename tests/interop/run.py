#!/usr/bin/env python3
"""Hugging Face transformers against `athanor`: the weights we load and the checkpoints we save mean the same to both.

    python tests/interop/run.py                      # the golden models of every family, dense or with experts
    python tests/interop/run.py output/quickstart    # and the newest checkpoint below that folder

For each golden model: `athanor train` starts from its weights, trains a few steps on random tokens and saves. Then
  - loss and gradient norm of the first step are those of transformers on the golden weights;
  - transformers loads the saved folder with no weight missing, left over or of another shape, and the weights have moved;
  - `athanor train` loads that folder again, and loss and gradient norm of its first step are those of transformers on it.

And `athanor ckpt convert` gives each the names and layouts of MindSpore Transformers and back, in parts; transformers loads
what came out and computes the same logits to the last bit.

A checkpoint is a folder with `config.json` and `model.safetensors` (hub names), and `tokenizer.json` where there is one.
Exit code 0 if all held; the last line is "N passed, N failed".
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = [
    "llama2", "llama3_1", "qwen2_tied", "qwen3", "glm", "glm4", "mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "deepseek_v2",
    "deepseek_v3_rope", "deepseek_v3_yarn", "moonlight",
]
CONVERTED = FAMILIES
# transformers leaves out the further token and adds no balance loss in training.
PLAIN = "num_nextn_predict_layers: 0\n    moe_aux_loss_coeff: 0.0"
MODEL_KEYS = {"glm4_moe": PLAIN, "deepseek_v3_rope": PLAIN, "deepseek_v3_yarn": PLAIN, "moonlight": PLAIN}
STEPS, BATCH, SEQ, LR = 3, 2, 16, 1e-3
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-5, 1e-4  # relative

CONFIG = """\
seed: 1
output_dir: '{out}'
pretrained_model_dir: '{model}'
load_checkpoint: '{weights}'
load_ckpt_format: 'safetensors'
use_parallel: False
run_mode: 'train'
use_legacy: False
runner_config: {{epochs: 1, batch_size: {batch}}}
optimizer: {{type: AdamW, betas: [0.9, 0.95], eps: 1.e-8, weight_decay: 0.1}}
lr_schedule: {{type: ConstantWarmUpLR, learning_rate: {lr}, warmup_steps: 0, total_steps: -1}}
train_dataset: &train_dataset
  data_loader: {{type: TokenBinDataLoader, path: '{tokens}', dtype: int32, stride: {stride}}}
  input_columns: ["input_ids", "labels"]
train_dataset_task: {{type: CausalLanguageModelDataset, dataset_config: *train_dataset}}
context: {{mode: 0, device_target: "CPU"}}
model:
  model_config:
    seq_length: {seq}
    params_dtype: "float32"
    compute_dtype: "float32"
    layernorm_compute_dtype: "float32"
    softmax_compute_dtype: "float32"
    rotary_dtype: "float32"
    {model_keys}
callbacks:
  - type: MFLossMonitor
  - {{type: CheckpointMonitor, prefix: "interop", save_checkpoint_steps: {steps}, checkpoint_format: "safetensors"}}
runner_wrapper: {{type: MFTrainOneStepCell, scale_sense: 1.0, use_clip_grad: True, max_grad_norm: 1.0}}
"""


class Failed(Exception):
    pass


def need(holds, what):
    if not holds:
        raise Failed(what)


def close(name, ours, theirs, tolerance):
    need(abs(ours / theirs - 1) <= tolerance, f"{name}: athanor {ours!r}, transformers {theirs!r}, tolerance {tolerance}")


def train(athanor, folder, name, **fields):
    """Runs `athanor train` on a configuration written to `folder`; its metrics, one dict per step."""
    config, metrics, out = folder / f"{name}.yaml", folder / f"{name}.jsonl", folder / name
    config.write_text(CONFIG.format(out=out, batch=BATCH, stride=SEQ + 1, seq=SEQ, **fields))
    done = subprocess.run([athanor, "train", config, "--metrics-json", metrics], capture_output=True, text=True, cwd=ROOT)
    need(done.returncode == 0, f"athanor train failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def checkpoint_below(folder):
    """The newest folder below `folder` that transformers can load."""
    found = [p.parent for p in folder.rglob("model.safetensors") if (p.parent / "config.json").exists()]
    need(found, f"no folder below {folder} holds config.json and model.safetensors")
    return max(found, key=lambda p: (p / "model.safetensors").stat().st_mtime)


def load(folder):
    """The model in f32, after its weights were found complete."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        need(not report[kind], f"{folder}: {kind}: {sorted(map(str, report[kind]))}")
    return model


def loss_and_norm(model, rows):
    """Mean cross-entropy of [batch, seq + 1] tokens and the norm of all gradients, as transformers computes them."""
    rows = torch.from_numpy(rows.astype(np.int64))
    model.zero_grad()
    logits = model(input_ids=rows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
    loss.backward()
    squares = sum(p.grad.double().square().sum() for p in model.parameters() if p.grad is not None)
    return loss.item(), squares.sqrt().item()


def family(athanor, name, folder):
    golden = ROOT / "tests" / "golden" / "models" / name
    theirs = load(golden)
    rows = np.random.default_rng(7).integers(0, theirs.config.vocab_size, (STEPS * BATCH, SEQ + 1), dtype=np.int32)
    rows.astype("<i4").tofile(folder / "tokens.bin")
    common = {"tokens": folder / "tokens.bin", "lr": LR, "steps": STEPS, "model_keys": MODEL_KEYS.get(name, "")}

    steps = train(athanor, folder, "first", model=golden, weights=golden / "model.safetensors", **common)
    need(len(steps) == STEPS, f"{STEPS} steps of metrics expected, {len(steps)} written")
    loss, norm = loss_and_norm(theirs, rows[:BATCH])
    close("loss from the golden weights", steps[0]["loss"], loss, LOSS_TOLERANCE)
    close("gradient norm from the golden weights", steps[0]["grad_norm"], norm, NORM_TOLERANCE)

    saved = checkpoint_below(folder / "first")
    again = load(saved)
    before, after = dict(theirs.named_parameters()), dict(again.named_parameters())
    need(before.keys() == after.keys(), f"other weights after saving: {sorted(before.keys() ^ after.keys())}")
    still = [n for n in before if torch.equal(before[n], after[n])]
    need(not still, f"weights that did not move in training: {still}")

    steps = train(athanor, folder, "second", model=saved, weights=saved, **common)
    loss, norm = loss_and_norm(again, rows[:BATCH])
    close("loss from the saved weights", steps[0]["loss"], loss, LOSS_TOLERANCE)
    close("gradient norm from the saved weights", steps[0]["grad_norm"], norm, NORM_TOLERANCE)
    return f"loss {loss:.6f}, gradient norm {norm:.6f}"


def converted(athanor, name, folder):
    """Through MindSpore Transformers' layouts and back, then into transformers."""
    golden = ROOT / "tests" / "golden" / "models" / name

    def ckpt(*args):
        done = subprocess.run([athanor, "ckpt", *args], capture_output=True, text=True)
        need(done.returncode == 0, f"athanor ckpt {args[0]} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")

    ckpt("convert", golden, folder / "mf", "--to", "mindformers", "--mla-qkv-concat")
    ckpt("convert", folder / "mf", folder / "hub", "--to", "hugging-face", "--mla-qkv-concat", "--max-shard-size", "50KB")
    ckpt("verify", golden, folder / "hub")
    need((folder / "hub" / "model.safetensors.index.json").exists(), "one file, where several were asked for")
    theirs, ours = load(golden).eval(), load(folder / "hub").eval()
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, theirs.config.vocab_size, (BATCH, SEQ)))
    with torch.no_grad():
        need(torch.equal(theirs(input_ids=ids).logits, ours(input_ids=ids).logits), "other logits after converting there and back")
    files = len(list((folder / "hub").glob("*.safetensors")))
    return f"the same logits, {files} files"


def checkpoint(folder):
    """Loads a checkpoint and lets it go on with a sentence, so that a reader sees what it learnt."""
    saved = checkpoint_below(folder)
    model = load(saved).eval()
    size = sum(p.numel() for p in model.parameters())
    if not (saved / "tokenizer.json").exists():
        return f"{saved}: {size:,} parameters, no tokenizer.json beside it"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(saved / "tokenizer.json"))
    need(len(tokenizer) <= model.config.vocab_size, f"{len(tokenizer)} tokens, the model knows {model.config.vocab_size}")
    prompt = "It is a truth universally acknowledged, that"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    need(tokenizer.decode(ids[0]).strip() == prompt, "the tokenizer does not give back its own text")
    torch.manual_seed(0)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=True, top_k=40, temperature=0.8, pad_token_id=0)
    return f"{saved}: {size:,} parameters; {tokenizer.decode(out[0])!r}"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("folders", nargs="*", type=pathlib.Path, help="also load the newest checkpoint below these")
    args.add_argument("--families", nargs="*", default=FAMILIES, choices=FAMILIES)
    args.add_argument("--converted", nargs="*", default=CONVERTED, choices=CONVERTED)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    args.add_argument("--athanor", default=os.environ.get("ATHANOR", target / "release" / "athanor"))
    args = args.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    jobs = [(name, lambda at, name=name: family(args.athanor, name, at)) for name in args.families]
    jobs += [(f"{name}, converted", lambda at, name=name: converted(args.athanor, name, at)) for name in args.converted]
    jobs += [(str(folder), lambda at, folder=folder: checkpoint(folder)) for folder in args.folders]
    failures = 0
    for name, job in jobs:
        with tempfile.TemporaryDirectory() as at:
            try:
                print(f"ok      {name}: {job(pathlib.Path(at))}", flush=True)
            except (Failed, OSError, ValueError, KeyError) as error:
                failures += 1
                print(f"FAILED  {name}: {error}", flush=True)
    print(f"{len(jobs) - failures} passed, {failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
