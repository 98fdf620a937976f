//! Feed-forward layers.

use athanor_ir::{Binary, Unary, ValueId};

use super::{Layout, Net};
use crate::config::Activation;

impl Net<'_> {
    /// down(act(gate(x)) ⊙ up(x)), or down(act(up(x))) without a gate, with `gate_proj`, `up_proj` and `down_proj`.
    pub fn mlp(&mut self, x: ValueId) -> ValueId {
        self.mlp_of_width(x, self.m.ffn_hidden_size.value)
    }

    /// [`Net::mlp`] of inner width `inner`.
    pub fn mlp_of_width(&mut self, x: ValueId, inner: usize) -> ValueId {
        let m = self.m;
        let bias = m.mlp_bias.value;
        let init = self.normal();
        let mut project =
            |name: &str| self.scope(name, None, |n| n.linear(x, inner, bias, Layout::OutIn, init.clone()));
        let inside = if m.gated_linear_unit.value {
            let (gate, up) = (project("gate_proj"), project("up_proj"));
            self.gate(gate, up)
        } else {
            let up = project("up_proj");
            self.activate(up)
        };
        let init = self.normal_before_residual();
        let bias = m.mlp_down_bias.value;
        self.scope("down_proj", None, |n| n.linear(inside, m.hidden_size.value, bias, Layout::OutIn, init))
    }

    /// act(gate) ⊙ up, both kept within `activation_func_clamp_value`: the gate from above, the other from both sides.
    pub fn gate(&mut self, gate: ValueId, up: ValueId) -> ValueId {
        let (gate, up) = match &self.m.activation_func_clamp_value {
            Some(limit) => {
                let ty = self.b.ty(gate);
                let (most, least) = (self.b.constant(limit.value, ty.clone()), self.b.constant(-limit.value, ty));
                let gate = self.b.binary(Binary::Min, gate, most);
                let up = self.b.binary(Binary::Min, up, most);
                (gate, self.b.binary(Binary::Max, up, least))
            }
            None => (gate, up),
        };
        let gate = self.activate(gate);
        self.b.mul(gate, up)
    }

    /// The activation of the feed-forward layer.
    pub fn activate(&mut self, x: ValueId) -> ValueId {
        let ty = self.b.ty(x);
        let b = &mut self.b;
        match self.m.hidden_act.value {
            Activation::Silu => b.unary(Unary::Silu, x),
            Activation::Gelu => b.unary(Unary::GeluErf, x),
            Activation::GeluTanh => b.unary(Unary::Gelu, x),
            // x·σ(c·x) = silu(c·x)/c
            Activation::QuickGelu => {
                let c = b.constant(1.702, ty.clone());
                let steep = b.mul(c, x);
                let silu = b.unary(Unary::Silu, steep);
                let inverse = b.constant(1.0 / 1.702, ty);
                b.mul(silu, inverse)
            }
            Activation::Relu => {
                let zero = b.constant(0.0, ty);
                b.binary(Binary::Max, x, zero)
            }
        }
    }
}
