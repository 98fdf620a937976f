//! Normalisation.

use athanor_ir::{F64, Op, ValueId};

use super::{Net, constant};
use crate::config::Normalization;

impl Net<'_> {
    /// Normalises the last dim of `x`; the gain (and for `LayerNorm` the bias) belong to the current block.
    ///
    /// The op works in f32 inside whatever the dtype of `x`, which is also that of the result.
    pub fn norm(&mut self, x: ValueId) -> ValueId {
        self.norm_with(x, self.m.layernorm_epsilon.value)
    }

    /// [`Net::norm`] with `eps` added to the variance.
    pub fn norm_with(&mut self, x: ValueId, eps: f64) -> ValueId {
        let ty = self.b.ty(x);
        let width = [ty.dims[ty.rank() - 1]];
        let eps = F64(eps);
        let gain = self.weight("weight", &width, constant(1.0));
        match self.m.normalization.value {
            Normalization::RmsNorm => self.b.many(Op::RmsNorm { eps }, &[x, gain])[0],
            Normalization::LayerNorm => {
                let bias = self.weight("bias", &width, constant(0.0));
                self.b.many(Op::LayerNorm { eps }, &[x, gain, bias])[0]
            }
        }
    }

    /// [`Net::norm`] of the residual stream, ready for a product: cast once, however many read it.
    pub fn input_norm(&mut self, x: ValueId) -> ValueId {
        let y = self.norm(x);
        self.to_compute(y)
    }
}
