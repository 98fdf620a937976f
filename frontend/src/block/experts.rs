//! Experts: tokens are sorted by expert, each expert's rows go through its matrices, and the results come back.

use athanor_ir::{Op, Unary, ValueId};

use super::router::Routed;
use super::{Layout, Net};
use crate::config::{Capacity, DropPolicy, Family, Moe, SharedExpert};

impl Net<'_> {
    /// y = `Σ_k` `w_k·Expert`_{`id_k}(x)` + `SharedExpert`(x) of `x [b, s, h]`. (models.md 3.4)
    ///
    /// The weights of all experts are stacked: `experts.gate_proj` and `up_proj [e, f, h]`, `experts.down_proj [e, h, f]`.
    pub fn experts(&mut self, x: ValueId, moe: &Moe) -> ValueId {
        let routed = self.route(x, moe);
        let y = self.scope("experts", moe.ffn_hidden_size.span, |n| n.routed_experts(x, routed, moe));
        match &moe.shared {
            Some(shared) => {
                let always = self.shared_expert(x, shared);
                self.b.add(y, always)
            }
            None => y,
        }
    }

    fn routed_experts(&mut self, x: ValueId, routed: Routed, moe: &Moe) -> ValueId {
        let (experts, inner, hidden) = (moe.num_experts.value, moe.ffn_hidden_size.value, self.m.hidden_size.value);
        let [b, s, _] = self.activation(0);
        let slots = b * s * moe.router.topk.value;
        let capacity = moe.capacity.as_ref().map_or(0, |c| capacity(c, slots, b * s, experts));
        let by_weight = moe.capacity.as_ref().is_some_and(|c| c.policy.value == DropPolicy::Probs);
        let operands: Vec<ValueId> = [routed.ids].into_iter().chain(by_weight.then_some(routed.weights)).collect();
        let assigned = self.b.many(Op::Assign { experts, capacity }, &operands);
        let (rows, spans) = (assigned[0], assigned[1]);
        let count = if capacity > 0 { slots.min(experts * capacity) } else { slots };
        let x = self.to_compute(x);
        let x = self.b.many(Op::Dispatch { rows: count }, &[x, rows])[0];
        let mut project = |name: &str, x: ValueId, dims: [usize; 3]| {
            let init = self.normal();
            let w = self.weight(name, &dims, init);
            let w = self.to_compute(w);
            self.b.many(Op::GroupedEinsum { spec: "rk,enk->rn".into() }, &[x, w, spans])[0]
        };
        let gate = project("gate_proj", x, [experts, inner, hidden]);
        let up = project("up_proj", x, [experts, inner, hidden]);
        let inside = self.gate(gate, up);
        let init = self.normal();
        let w = self.weight("down_proj", &[experts, hidden, inner], init);
        let w = self.to_compute(w);
        let y = self.b.many(Op::GroupedEinsum { spec: "rk,enk->rn".into() }, &[inside, w, spans])[0];
        self.b.many(Op::Combine, &[y, rows, routed.weights])[0]
    }

    /// The expert of every token; with a gate it counts by the sigmoid of a projection of the token.
    fn shared_expert(&mut self, x: ValueId, shared: &SharedExpert) -> ValueId {
        let (width, span) = (shared.ffn_hidden_size.value, shared.ffn_hidden_size.span);
        // The name is Hugging Face's: Qwen2-MoE's, or DeepSeek's.
        let qwen = self.m.family == Family::Qwen2Moe;
        let name = if qwen { "shared_expert" } else { "shared_experts" };
        let y = self.scope(name, span, |n| n.mlp_of_width(x, width));
        if !shared.gated.value {
            return y;
        }
        self.scope("shared_expert_gate", shared.gated.span, |n| {
            let init = n.normal();
            let gate = n.linear(x, 1, false, Layout::OutIn, init);
            let gate = n.b.unary(Unary::Sigmoid, gate);
            let [b, s, h] = n.activation(n.m.hidden_size.value);
            let gate = n.b.reshape(gate, &[b, s]);
            let gate = n.b.broadcast(gate, &[0, 1], &[b, s, h]);
            n.b.mul(gate, y)
        })
    }
}

/// The most tokens of an expert: an even share of the slots, times the factor, up to all tokens.
fn capacity(c: &Capacity, slots: usize, tokens: usize, experts: usize) -> usize {
    let share = (slots as f64 * c.factor.value / experts as f64).ceil();
    (share as usize).clamp(1, tokens)
}
