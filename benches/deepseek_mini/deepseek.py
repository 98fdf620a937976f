"""DeepSeek-V3 as plain PyTorch: latent attention, routed experts in three ways, the router's bias.

Expert weights are stacked, [experts, out, in]; `load` makes them from Hugging Face's tensors. How experts are computed:

loop     as Hugging Face writes it: for each expert the rows that chose it, gathered and added back
sorted   rows sorted by expert once, a product for each contiguous slice
grouped  rows sorted by expert once, one torch grouped product
"""
import torch
import torch.nn.functional as F

EXPERTS = ["loop", "sorted", "grouped"]


class Norm(torch.nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def linear(inputs, outputs):
    return torch.nn.Linear(inputs, outputs, bias=False)


def rotate(x, cos, sin):
    """Rotates pairs (0, 1), (2, 3), … of the last dim; the result has the first of each pair, then the second."""
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Attention(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        h, eps = c["hidden_size"], c["rms_norm_eps"]
        self.heads, self.nope, self.rope, self.v = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        self.q_a_proj, self.q_a_layernorm = linear(h, c["q_lora_rank"]), Norm(c["q_lora_rank"], eps)
        self.q_b_proj = linear(c["q_lora_rank"], self.heads * (self.nope + self.rope))
        self.kv_a_proj_with_mqa, self.kv_a_layernorm = linear(h, c["kv_lora_rank"] + self.rope), Norm(c["kv_lora_rank"], eps)
        self.kv_b_proj = linear(c["kv_lora_rank"], self.heads * (self.nope + self.v))
        self.o_proj = linear(self.heads * self.v, h)

    def forward(self, x, cos, sin):
        b, s, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(b, s, self.heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split((self.nope, self.rope), dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((self.kv_a_layernorm.weight.numel(), self.rope), dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(b, s, self.heads, -1).transpose(1, 2)
        k_nope, v = kv.split((self.nope, self.v), dim=-1)
        k_rope = rotate(k_rope[:, None], cos, sin).expand(-1, self.heads, -1, -1)
        q, k = torch.cat((q_nope, rotate(q_rope, cos, sin)), dim=-1), torch.cat((k_nope, k_rope), dim=-1)
        # The fused kernel wants heads of one size.
        v = F.pad(v, (0, self.nope + self.rope - self.v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)[..., : self.v]
        return self.o_proj(out.transpose(1, 2).reshape(b, s, -1))


class Mlp(torch.nn.Module):
    def __init__(self, hidden, ffn):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(hidden, ffn), linear(hidden, ffn), linear(ffn, hidden)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(torch.nn.Module):
    """Routed and shared experts of one layer."""

    def __init__(self, c, how):
        super().__init__()
        h, f, self.count = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
        self.how, self.k, self.groups, self.group_k = how, c["num_experts_per_tok"], c["n_group"], c["topk_group"]
        self.scale = c["routed_scaling_factor"]
        self.gate = torch.nn.Parameter(torch.empty(self.count, h))
        self.gate_up = torch.nn.Parameter(torch.empty(self.count, 2 * f, h))
        self.down = torch.nn.Parameter(torch.empty(self.count, h, f))
        self.shared_experts = Mlp(h, f * c["n_shared_experts"])
        self.register_buffer("bias", torch.zeros(self.count))
        self.register_buffer("load", torch.zeros(self.count), persistent=False)

    def route(self, x):
        """Experts [rows, k] and their weights, in f32."""
        with torch.autocast("cpu", enabled=False):
            scores = F.linear(x.float(), self.gate.float()).sigmoid()
            chosen = (scores + self.bias).detach()
            grouped = chosen.view(len(x), self.groups, -1)
            best = grouped.topk(2, dim=-1).values.sum(-1).topk(self.group_k, dim=-1).indices
            mask = torch.zeros_like(grouped[..., 0]).scatter_(1, best, 1.0)
            ids = (grouped * mask[..., None]).view_as(chosen).topk(self.k, dim=-1).indices
            weights = scores.gather(1, ids)
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * self.scale
        return ids, weights

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        ids, weights = self.route(rows)
        counts = torch.zeros_like(self.load).scatter_add_(0, ids.flatten(), torch.ones(ids.numel()))
        self.load.copy_(counts)
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else rows.dtype
        out = getattr(self, self.how)(rows.to(dtype), ids, weights.to(dtype), counts)
        return (out + self.shared_experts(rows)).view(x.shape)

    def loop(self, x, ids, weights, _counts):
        out = torch.zeros_like(x)
        for e in range(self.count):
            row, slot = (ids == e).nonzero(as_tuple=True)
            gate, up = F.linear(x[row], self.gate_up[e]).chunk(2, dim=-1)
            y = F.linear(F.silu(gate) * up, self.down[e])
            out.index_add_(0, row, (y * weights[row, slot, None]).to(out.dtype))
        return out

    def sort(self, x, ids):
        """Rows by expert, and for each slot where its row went."""
        order = ids.flatten().argsort(stable=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel()))
        return x[order // self.k], back

    def merge(self, y, back, weights):
        return (y[back].view(*weights.shape, -1) * weights[..., None]).sum(1)

    def sorted(self, x, ids, weights, counts):
        rows, back = self.sort(x, ids)
        parts = rows.split(counts.int().tolist())
        gate, up = torch.cat([F.linear(p, w) for p, w in zip(parts, self.gate_up.unbind())]).chunk(2, dim=-1)
        parts = (F.silu(gate) * up).split(counts.int().tolist())
        y = torch.cat([F.linear(p, w) for p, w in zip(parts, self.down.unbind())])
        return self.merge(y, back, weights)

    def grouped(self, x, ids, weights, counts):
        rows, back = self.sort(x, ids)
        ends = counts.cumsum(0).to(torch.int32)
        product = lambda a, w: F.grouped_mm(a, w.to(a.dtype).transpose(1, 2), offs=ends)
        gate, up = product(rows, self.gate_up).chunk(2, dim=-1)
        return self.merge(product(F.silu(gate) * up, self.down), back, weights)


class Layer(torch.nn.Module):
    def __init__(self, c, index, how):
        super().__init__()
        h, eps = c["hidden_size"], c["rms_norm_eps"]
        self.input_layernorm, self.self_attn = Norm(h, eps), Attention(c)
        self.post_attention_layernorm = Norm(h, eps)
        self.mlp = Mlp(h, c["intermediate_size"]) if index < c["first_k_dense_replace"] else Experts(c, how)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(torch.nn.Module):
    def __init__(self, c, how):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = torch.nn.ModuleList(Layer(c, i, how) for i in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])


class Model(torch.nn.Module):
    def __init__(self, c, how="grouped"):
        super().__init__()
        self.config, self.model = c, Body(c, how)
        self.lm_head = linear(c["hidden_size"], c["vocab_size"])
        rope = c["qk_rope_head_dim"]
        turns = torch.arange(0, rope, 2, dtype=torch.float32) / rope
        angles = torch.outer(torch.arange(c["max_position_embeddings"]).float(), c["rope_theta"] ** -turns)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def load(self, tensors):
        """Takes Hugging Face's tensors."""
        for i, layer in enumerate(self.model.layers):
            if isinstance(layer.mlp, Experts):
                at = f"model.layers.{i}.mlp."
                tensors[at + "bias"] = tensors.pop(at + "gate.e_score_correction_bias")
                tensors[at + "gate"] = tensors.pop(at + "gate.weight")
                take = lambda e, name: tensors.pop(f"{at}experts.{e}.{name}_proj.weight")
                pairs = [torch.cat((take(e, "gate"), take(e, "up"))) for e in range(layer.mlp.count)]
                tensors[at + "gate_up"] = torch.stack(pairs)
                tensors[at + "down"] = torch.stack([take(e, "down") for e in range(layer.mlp.count)])
        self.load_state_dict(tensors)

    def forward(self, tokens, labels):
        x = self.model.embed_tokens(tokens)
        cos, sin = self.cos[: tokens.shape[1]].to(x.dtype), self.sin[: tokens.shape[1]].to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        logits = self.lm_head(self.model.norm(x))
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), labels.reshape(-1))

    def after_step(self, rate=1e-3):
        """Moves the router's biases; the tokens of each expert, layer by layer."""
        loads = []
        for layer in self.model.layers:
            if isinstance(layer.mlp, Experts):
                load = layer.mlp.load
                layer.mlp.bias += rate * torch.sign(load.mean() - load)
                loads.append(load.int().tolist())
        return loads
