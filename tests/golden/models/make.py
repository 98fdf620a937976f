#!/usr/bin/env python3
"""Makes golden values of tiny models with Hugging Face transformers; the README beside it says what is in a folder.

    .venv/bin/python tests/golden/models/make.py glm4_moe qwen2_moe       # these
    .venv/bin/python tests/golden/models/make.py                          # all that this file knows

Weights are seeded normal numbers (gains around 1), tokens follow from a rule; everything is computed in f32 with eager
attention. A gradient gets the name and layout of its weight in a file by being saved as if it were one.
"""
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
BATCH, SEQ, VOCAB = 2, 16, 96

COMMON = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
    attention_dropout=0.0, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)

# By folder, what differs from COMMON; `model_type` where the hub's is not the name.
MODELS = {
    "glm": dict(num_key_value_heads=2, head_dim=16, partial_rotary_factor=0.5, attention_bias=True),
    "glm4": dict(num_key_value_heads=2, head_dim=16, partial_rotary_factor=0.5, attention_bias=True),
    "glm4_moe": dict(
        num_hidden_layers=3, num_key_value_heads=2, head_dim=16, partial_rotary_factor=0.5, attention_bias=True, use_qk_norm=True,
        moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, n_group=1, topk_group=1,
        first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.5,
    ),
    "qwen2_moe": dict(
        num_key_value_heads=2, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=False, decoder_sparse_step=1, output_router_logits=False,
    ),
    "deepseek_v2": dict(
        num_hidden_layers=3, num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, n_group=4, topk_group=2,
        topk_method="group_limited_greedy", first_k_dense_replace=1, norm_topk_prob=False, routed_scaling_factor=1.5,
    ),
    "moonlight": dict(
        model_type="deepseek_v3", num_hidden_layers=3, num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=16,
        qk_rope_head_dim=8, v_head_dim=16, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2,
        n_group=1, topk_group=1, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=2.446, num_nextn_predict_layers=0,
    ),
}


def draw(model):
    """Fills every weight, and the router's bias, which is no parameter."""
    generator = torch.Generator().manual_seed(20)
    for name, tensor in sorted(model.state_dict().items()):
        if not tensor.is_floating_point() or "inv_freq" in name:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            tensor.copy_(noise * 0.02)
        elif "norm" in name and tensor.dim() == 1:
            tensor.copy_(1 + 0.1 * noise)
        else:
            tensor.copy_(noise * (0.3 if "embed" in name or "lm_head" in name else 0.15))


def in_file(model):
    """The tensors of the model under their names in a file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def make(name):
    settings = {"model_type": name, **COMMON, **MODELS[name]}
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        draw(model)
    weights = in_file(model)

    # A rule that gives every token a few neighbours, all below the vocabulary.
    tokens = torch.tensor([[(7 * i * i + 13 * i + 31 * row) % VOCAB for i in range(SEQ + 1)] for row in range(BATCH)])
    ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    logits = model(input_ids=ids).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), labels.reshape(-1))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()), "a weight without a gradient"
    norm = torch.sqrt(sum(p.grad.double().square().sum() for p in model.parameters())).item()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.grad)
    grads = {n: t for n, t in in_file(model).items() if not n.endswith("e_score_correction_bias")}

    out = HERE / name
    out.mkdir(exist_ok=True)
    config.architectures = [type(model).__name__]
    (out / "config.json").write_text(config.to_json_string())
    save_file(weights, out / "model.safetensors")
    save_file(
        {
            "input_ids": ids.int(), "labels": labels.int(), "logits": logits.detach(), "loss": loss.detach(),
            **{f"grad.{n}": t for n, t in grads.items()},
        },
        out / "reference.safetensors",
    )
    print(f"{name}: loss {loss.item():.7f}, gradient norm {norm:.7f}, {sum(t.numel() for t in weights.values()):,} elements")


for wanted in sys.argv[1:] or MODELS:
    make(wanted)
