//! Fused causal attention on the CPU, forward and backward, without the sequence × sequence matrix.
//!
//! Both directions work on transposed scores: a register tile holds a few keys (its rows) times a vector of queries, so
//! that the softmax needs no horizontal reduction and every one of the seven products reads its operands in the order
//! in which they were written. Keys and values are copied once per grid item into f32 rows, which is also where bf16
//! is widened. Tiles above the diagonal are never computed.

mod backward;
mod backward_tiles;
mod forward;
mod forward_tiles;
mod layout;
mod pack;
mod so_far;
mod start;
mod tile;
mod tiles;

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::Buf;
use super::simd::Float;

/// The attention of one layer on one rank.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub struct AttentionSpec {
    /// Sequences.
    pub batch: usize,
    /// Queries of a sequence.
    pub seq: usize,
    /// Keys of a sequence: as many as queries, unless `first` says where they begin.
    pub keys: usize,
    /// Where the first key is, counted from the first query, is an operand: query i sees keys up to i − first.
    pub first: bool,
    /// What other keys gave is an operand too: out and lse, or dq, in f32.
    pub so_far: bool,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; query head `h` uses key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a query and of a key.
    pub head_dim: usize,
    /// Width of a value.
    pub v_head_dim: usize,
    /// Factor on the scores, usually `head_dim^-1/2`; above 0.
    pub scale: f64,
    /// A query sees only keys at its own and earlier positions.
    pub causal: bool,
    /// The score of query i and key j is increased by slope·(j − i), with the head's slope ([`athanor_ir::alibi`]).
    pub alibi: bool,
    /// Element type of q, k, v, out and their gradients.
    pub dtype: Float,
    /// Element type of what the kernel makes of queries, out or dq: `dtype`, or f32 to go on from.
    pub result: Float,
}

impl AttentionSpec {
    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Pairs of a query and a key that it sees, over all sequences and heads.
    pub fn pairs(&self) -> usize {
        let per_head = if self.causal { self.seq * (self.keys + 1) / 2 } else { self.seq * self.keys };
        self.batch * self.heads * per_head
    }

    /// Floating-point operations of the two products of the forward pass.
    pub fn forward_flops(&self) -> usize {
        2 * self.pairs() * (self.head_dim + self.v_head_dim)
    }

    /// Floating-point operations of the five products of the backward pass.
    pub fn backward_flops(&self) -> usize {
        2 * self.pairs() * (3 * self.head_dim + 2 * self.v_head_dim)
    }

    /// bf16 products run on tile registers where there are any, but for scores with slopes.
    fn on_tiles(&self, level: CpuLevel) -> bool {
        level == CpuLevel::Amx && self.dtype == Float::Bf16 && !self.alibi
    }

    /// `base` and, where it counts, `h`: indices that a helper takes whose work depends on the head.
    fn with_head<T: Copy>(&self, base: &[T], h: T) -> Vec<T> {
        base.iter().copied().chain(self.alibi.then_some(h)).collect()
    }

    /// `base` and, where keys begin elsewhere, `start`: the position of the first query among the keys.
    fn with_start<T: Copy>(&self, base: &[T], start: Option<T>) -> Vec<T> {
        base.iter().copied().chain(start.filter(|_| self.first)).collect()
    }

    /// The operand that says where the first key is, if there is one.
    fn origin(&self) -> Option<Buf> {
        self.first.then(|| Buf::arg("first", &[1], "i32"))
    }

    fn q(&self, name: &'static str) -> Buf {
        Buf::arg(name, &[self.batch, self.seq, self.heads, self.head_dim], self.dtype.name())
    }

    fn k(&self, name: &'static str) -> Buf {
        Buf::arg(name, &[self.batch, self.keys, self.kv_heads, self.head_dim], self.dtype.name())
    }

    fn v(&self, name: &'static str) -> Buf {
        Buf::arg(name, &[self.batch, self.keys, self.kv_heads, self.v_head_dim], self.dtype.name())
    }

    fn out(&self, name: &'static str) -> Buf {
        Buf::arg(name, &[self.batch, self.seq, self.heads, self.v_head_dim], self.dtype.name())
    }

    /// What the forward kernel writes.
    fn new_out(&self, name: &'static str) -> Buf {
        Buf { element: self.result.name(), ..self.out(name) }
    }

    /// The gradient of queries.
    fn dq(&self, name: &'static str) -> Buf {
        Buf { element: self.result.name(), ..self.q(name) }
    }

    /// Operands beyond those that every kernel has, where results of other keys are so many operands.
    fn extra_operands(&self, others: usize) -> usize {
        usize::from(self.first) + if self.so_far { others } else { 0 }
    }

    fn lse(&self) -> Buf {
        Buf::arg("lse", &[self.batch, self.heads, self.seq], "f32")
    }
}

/// The forward kernel.
///
/// Buffers: q `[b,s,n,d]`, k `[b,t,g,d]`, v `[b,t,g,dv]`, first i32 if the spec has it, out f32 and lse of other keys if it has
/// them → out `[b,s,n,dv]`, lse f32 `[b,n,s]` (natural logarithm of the sum of exponentials of the scaled scores), scratch bytes.
/// A grid item is a (sequence, key head) pair.
pub fn forward(spec: &AttentionSpec, level: CpuLevel, symbol: &str) -> Generated {
    if spec.on_tiles(level) { forward_tiles::generate(spec, symbol) } else { forward::generate(spec, level, symbol) }
}

/// The backward kernel.
///
/// Buffers: q, k, v, out, lse as in [`forward`], dout `[b,s,n,dv]`, first i32 and dq f32 by other keys if the spec has them → dq,
/// dk, dv like q, k, v, scratch bytes. A grid item is a (sequence, key head) pair, so the sums over the query heads of a group have
/// one writer and a fixed order.
pub fn backward(spec: &AttentionSpec, level: CpuLevel, symbol: &str) -> Generated {
    if spec.on_tiles(level) { backward_tiles::generate(spec, symbol) } else { backward::generate(spec, level, symbol) }
}
