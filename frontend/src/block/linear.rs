//! Linear layers.

use athanor_ir::{Init, ValueId};

use super::{Net, constant};

/// Which way round a weight matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`, y = x·Wᵀ: everybody.
    OutIn,
    /// `[in, out]`, y = x·W: GPT-2.
    InOut,
}

impl Net<'_> {
    /// x·W + bias over the last dim of x `[b, s, in]`; `weight` and `bias` belong to the current block.
    ///
    /// The product is in the compute dtype, to which the f32 weights are cast on the way.
    pub fn linear(&mut self, x: ValueId, out: usize, bias: bool, layout: Layout, init: Init) -> ValueId {
        let x = self.to_compute(x);
        let width = self.b.ty(x).dims[2];
        let (dims, spec) = match layout {
            Layout::OutIn => ([out, width], "bsh,kh->bsk"),
            Layout::InOut => ([width, out], "bsh,hk->bsk"),
        };
        let w = self.weight("weight", &dims, init);
        let w = self.to_compute(w);
        let y = self.b.einsum(spec, x, w);
        if !bias {
            return y;
        }
        let c = self.weight("bias", &[out], constant(0.0));
        let c = self.to_compute(c);
        let c = self.b.broadcast_like(c, y);
        self.b.add(y, c)
    }
}
