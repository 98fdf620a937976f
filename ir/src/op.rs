//! The ops: one enum that every pass, kernel table and backend matches exhaustively.
//!
//! The attributes of an op are the fields of its variant; operands and results live in [`crate::func::Node`]. Adding a
//! variant makes the compiler list what is missing: signature, inference, name, vjp, reference kernel, code generation.

use crate::collective::Collective;
pub use crate::element::{Binary, F64, ReduceKind, Unary};
use serde::{Deserialize, Serialize};

/// What a router does to the scores of experts outside the best groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteMask {
    /// They become 0, so that they win over negative ones: the first DeepSeek-V3 code and MindSpore's graph mode.
    Zero,
    /// They become −∞.
    NegInf,
}

impl RouteMask {
    /// The spelling in IR.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::NegInf => "neg_inf",
        }
    }
}

/// An operation. Operand and result shapes in the docs use b batch, s sequence, n query heads, g key/value heads,
/// d head dim, h hidden, v vocabulary; `…` is any leading dims.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// () → any: every element is `value`.
    Constant {
        /// The element.
        value: F64,
    },
    /// (x) → same dims: element-wise function.
    Unary(Unary),
    /// (a, b) → same dims: element-wise function; operands have equal types.
    Binary(Binary),
    /// (x) → same dims, the result's dtype. bf16 rounds to nearest even.
    Cast,
    /// (x) → same elements in row-major order under new dims.
    Reshape,
    /// (x) → dims permuted: result dim i is operand dim `perm[i]`.
    Transpose {
        /// Permutation of the operand's dims.
        perm: Vec<usize>,
    },
    /// (x) → larger rank: operand dim i becomes result dim `dims[i]`; the other result dims repeat.
    Broadcast {
        /// Increasing result dims that the operand's dims map to.
        dims: Vec<usize>,
    },
    /// (x) → `len` elements of `dim` from `start`.
    Slice {
        /// Sliced dim.
        dim: usize,
        /// First index kept.
        start: usize,
        /// Number of indices kept.
        len: usize,
    },
    /// (x₀, x₁, …) → joined along `dim`.
    Concat {
        /// Joined dim.
        dim: usize,
    },
    /// (x) → `dims` removed by sum or maximum. Sums accumulate in f32 at least.
    Reduce {
        /// Sum or max.
        kind: ReduceKind,
        /// Reduced dims, increasing.
        dims: Vec<usize>,
    },
    /// (a, b[, acc]) → contraction written as einsum, such as `bsh,kh->bsk`; products accumulate in f32 at least.
    /// The optional third operand has the result's type and is added to the product.
    Einsum {
        /// Two comma-separated operand label strings, an arrow, the result's labels.
        spec: String,
    },
    /// (ids i32 […], table [v, h]) → […, h]: row `ids[…]` of the table; zeros for an id that the table does not have, as
    /// one that is a part of a larger table does not.
    Embed,
    /// (ids i32 […], dy […, h]) → [v, h]: sum of the rows of `dy` by id; ids outside count nowhere.
    EmbedGrad {
        /// Rows of the result.
        vocab: usize,
    },
    /// (x […, h], gain [h]) → (x·rsqrt(mean(x²) + eps))·gain over the last dim.
    RmsNorm {
        /// Added to the mean square.
        eps: F64,
    },
    /// (x, gain, dy) → (dx, dgain).
    RmsNormGrad {
        /// As in the forward op.
        eps: F64,
    },
    /// (x […, h], gain [h], bias [h]) → (x − mean)·rsqrt(var + eps)·gain + bias over the last dim.
    LayerNorm {
        /// Added to the variance.
        eps: F64,
    },
    /// (x, gain, dy) → (dx, dgain, dbias).
    LayerNormGrad {
        /// As in the forward op.
        eps: F64,
    },
    /// () → (cos [s, r/2], sin [s, r/2]) f32 of position·`inv_freq[i]`, times `scale`.
    RopeTable {
        /// Angular frequency of each pair, radians per position (r/2 of them).
        inv_freq: Vec<F64>,
        /// Multiplies cos and sin (YaRN's magnitude; 1 otherwise).
        scale: F64,
    },
    /// (x [b, s, n, d], cos [s, r/2], sin [s, r/2]) → x with its first r ≤ d dims rotated by position.
    Rope {
        /// Pairs are (2i, 2i+1) instead of (i, i + r/2).
        interleaved: bool,
        /// Rotate by the negative angle: the gradient.
        inverse: bool,
    },
    /// (q [b, s, n, d], k [b, t, g, d], v [b, t, g, e][, first i32]) → (out [b, s, n, e], lse [b, n, s] f32): softmax attention;
    /// query head i reads key/value head i·g/n; softmax in f32.
    ///
    /// There are as many keys as queries, unless `first` says where the first key is, counted from the first query: query i is
    /// at position i − first then. A query that sees none of the keys has out 0 and lse −∞. The result out has the queries'
    /// dtype, or f32 where `attention_step` goes on from it.
    Attention {
        /// Multiplies the scores.
        scale: F64,
        /// Position i sees positions ≤ i only.
        causal: bool,
        /// The score of query i and key j is increased by slope·(j − i), with a slope for each head ([`crate::alibi`]).
        alibi: bool,
    },
    /// (q, k, v, out, lse, dout[, first]) → (dq, dk, dv); dq has the queries' dtype, or f32 where `attention_step_grad` goes on
    /// from it.
    AttentionGrad {
        /// As in the forward op.
        scale: F64,
        /// As in the forward op.
        causal: bool,
        /// As in the forward op.
        alibi: bool,
    },
    /// (q, k, v, first, out f32, lse) → (out, lse): causal attention to more keys, given what it is to others. With the results of
    /// these keys alone as out₂ and lse₂, out is (out₁·exp(lse₁) + out₂·exp(lse₂)) / (exp(lse₁) + exp(lse₂)), and lse the logarithm
    /// of the divisor. Inserted by `partition`.
    AttentionStep {
        /// As in `attention`.
        scale: F64,
        /// As in `attention`.
        alibi: bool,
    },
    /// (q, k, v, out, lse, dout, first, dq f32) → (dq, dk, dv), with out and lse over all keys: the gradients by some of them, and
    /// to that of queries is added what it is by others.
    AttentionStepGrad {
        /// As in `attention`.
        scale: F64,
        /// As in `attention`.
        alibi: bool,
    },
    /// (logits […, v], labels i32 […]) → (loss f32 […], lse f32 […]): lse − logit\[label\].
    CrossEntropy,
    /// (logits […, v], labels i32 […], lse f32 […], dloss f32 […]) → dlogits = (exp(logit − lse) − onehot)·dloss.
    CrossEntropyGrad,
    /// (logits […, v], ids i32 […]) of a part of a vocabulary → (logit f32 […], lse f32 […]): that of the id, 0 if it is
    /// not in the part, and the log of the sum of the part's exponentials. Inserted by `partition`.
    PartEntropy,
    /// (logits […, v], ids i32 […], lse f32 […], dloss f32 […]) of a part of a vocabulary, with the whole `lse` → dlogits =
    /// (exp(logit − lse) − onehot)·dloss; ids outside have no one.
    PartEntropyGrad,
    /// (scores […, e][, bias [e]]) → ids i32 […, k]: the `k` experts with the largest score + bias, best first, the lower
    /// index first among equals. With `groups` above 1 experts are cut into that many runs, the `group_k` groups with the
    /// largest sum of their `group_top` best count, and the others are masked. Sums are rounded to the scores' dtype before
    /// they are compared. No gradient.
    Route {
        /// Experts of a token.
        k: usize,
        /// Number of groups; 1 for none.
        groups: usize,
        /// Groups that count.
        group_k: usize,
        /// Experts of a group whose sum is the group's score.
        group_top: usize,
        /// What becomes of experts outside the best groups.
        mask: RouteMask,
    },
    /// (x […, n], ids i32 […, k]) → […, k]: element `ids[…, j]` of the row.
    Pick,
    /// (ids i32 […, k], dy […, k]) → […, n]: zeros, and `dy[…, j]` added at `ids[…, j]`: the gradient of `pick`.
    PickGrad {
        /// Length of a row of the result.
        n: usize,
    },
    /// (ids i32 […, m]) → f32 […, bins]: how often each of 0 … bins − 1 occurs in the last dim. No gradient.
    Histogram {
        /// Number of ids that are counted.
        bins: usize,
    },
    /// (ids i32 […, k][, weights […, k]]) → (rows i32 […, k], spans i32 [experts, 2]): slots sorted by expert, stable.
    ///
    /// `rows[…, j]` is the slot's place in that order. Expert i has the rows from `spans[i, 0]` to before `spans[i, 1]`,
    /// which is where those of the next one begin. With a capacity an expert keeps that many slots, those of the largest weights if weights are given,
    /// else the first ones; a slot that is dropped has row −1. No gradient.
    Assign {
        /// Number of experts; ids are below it.
        experts: usize,
        /// Most slots an expert keeps; 0 for no bound.
        capacity: usize,
    },
    /// (x […, h], rows i32 […, k][, weights […, k]]) → [rows, h]: row `rows[…, j]` is x (times its weight); rows of the
    /// result without a slot are 0.
    Dispatch {
        /// Rows of the result.
        rows: usize,
    },
    /// (y [r, h], rows i32 […, k][, weights […, k]]) → […, h]: the sum over j of row `rows[…, j]` (times its weight).
    Combine,
    /// (y [r, h], rows i32 […, k], dout […, h]) → […, k]: the product of row `rows[…, j]` with dout, 0 for a dropped
    /// slot: the gradient by the weights of `dispatch` and `combine`.
    CombineDot,
    /// (a, b, spans i32 [e, 2][, acc]) → an einsum in which `r`, rows sorted by expert, and `e`, the expert, are tied:
    /// row r belongs to the expert e with `spans[e, 0]` ≤ r < `spans[e, 1]`.
    ///
    /// Of the forms `rk,enk->rn`, where each row meets its expert's matrix, and `rn,rk->enk`, where each expert sums over
    /// its rows. Experts may be some of many, one after the other: rows of the others, before the first span and behind the
    /// last one, are not read, and are 0 in the result. Products accumulate in f32 at least; `acc` is added to the product.
    GroupedEinsum {
        /// Operand labels and result labels as in `einsum`.
        spec: String,
    },
    /// (spans i32 [p, e, 2]) → i32: how many rounds it takes until each of `p` ranks has been sent the rows of its `e` experts,
    /// `capacity` of them in a round; 1 at least. Spans are those of `assign`. No gradient.
    Rounds {
        /// Most rows that a rank is sent in a round.
        capacity: usize,
    },
    /// (rows i32 […, k], spans i32 [p, e, 2], round i32) → (places i32 […, k], experts i32 [p·capacity, 1]): the slots whose rows go
    /// in round `round`, counted from 0.
    ///
    /// A slot of an expert of the j-th rank, whose row is the n-th that this rank gets, goes in round n / `capacity`, at the place
    /// j·`capacity` + n % `capacity`; the others have place −1. `experts[i]` is the expert of the row at place i, counted among
    /// those of its rank, and `e` where there is none. No gradient.
    Portion {
        /// Most rows that a rank is sent in a round.
        capacity: usize,
    },
    /// (g₀, g₁, …) → f64 scalar: sum of the squares of all elements, accumulated in f64.
    SumSquares,
    /// (p, g, m, v, lr, `step_size`, `v_scale`, `g_scale` — the last four f32 scalars) → (p, m, v): one AdamW step.
    ///
    /// `g ← g·g_scale; m ← β₁·m + (1−β₁)·g; v ← β₂·v + (1−β₂)·g²`;
    /// `p ← p·(1 − lr·decay) − step_size·m/(√(v·v_scale) + eps)`,
    /// with `step_size = lr/(1−β₁ᵗ)` and `v_scale = 1/(1−β₂ᵗ)` supplied per step.
    AdamW {
        /// Decay of the first moment.
        beta1: F64,
        /// Decay of the second moment.
        beta2: F64,
        /// Added to the root of the second moment.
        eps: F64,
        /// Decoupled weight decay.
        decay: F64,
    },
    /// (x) → y: ranks of a group together. Inserted by `partition`, after derivatives were taken.
    Collective(Collective),
    /// (v₀, v₁, …) → (g₀, g₁, …): the operands go to the next position of a pipeline, the results are what comes back from
    /// it. Inserted by `split-stages`: what depends on a result runs after the operands have gone.
    ///
    /// At the last position the results are the operands: there the forward part ends and the loss begins.
    Handover {
        /// Whether this is the last position.
        last: bool,
    },
    /// (kept […, t, …], part […, s, …], first i32) → `kept` with `part` at −`first` of `dim`, and zeros behind it: what slices of
    /// a sequence have so far. Inserted by `slice-sequences`, as what follows is.
    KeepSlice {
        /// The sequence.
        dim: usize,
    },
    /// (x, first i32) → `len` elements of `dim` from −`first`: the part of a slice.
    OwnSlice {
        /// The sequence.
        dim: usize,
        /// Number of indices kept.
        len: usize,
    },
    /// (sum, x, first i32) → sum + x, or x alone in the slice that begins at `begin`: the sum over slices so far, in the type of
    /// `sum`, which is as wide as that of x or wider.
    SumSlices {
        /// Where the slice begins whose x comes first.
        begin: usize,
    },
    /// (x, y) → x, read no sooner than y is there: what slices that come through later have left there by then. Inserted by
    /// `split-stages`.
    Await,
    /// (x) → x in the host's memory, where nothing but `from_host` reads it. Inserted by `offload`.
    ToHost,
    /// (x on the host) → x in the device's memory. Inserted by `offload`.
    FromHost,
    /// (rounds i32, x₀, x₁, …) → (a₀, a₁, …): runs another function of the module `rounds` times, once at least.
    ///
    /// Its parameters are the number of the round, from 0, then what was summed up so far, zeros at first, then the operands;
    /// its results are the new sums, under the names of the old ones. If ranks do something together in it, they must agree on
    /// the number of rounds. Inserted by `partition`.
    Repeat {
        /// Name of the function.
        callee: String,
    },
    /// Runs another function of the module on the operands.
    Call {
        /// Name of the function.
        callee: String,
    },
}

impl Op {
    /// Position of the operand that a product adds to, if it has one.
    pub const fn addend(&self) -> Option<usize> {
        match self {
            Self::Einsum { .. } => Some(2),
            Self::GroupedEinsum { .. } => Some(3),
            _ => None,
        }
    }

    /// The op's name without dialect: `einsum`, `rms_norm`, …
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Constant { .. } => "constant",
            Self::Unary(u) => u.name(),
            Self::Binary(b) => b.name(),
            Self::Cast => "cast",
            Self::Reshape => "reshape",
            Self::Transpose { .. } => "transpose",
            Self::Broadcast { .. } => "broadcast",
            Self::Slice { .. } => "slice",
            Self::Concat { .. } => "concat",
            Self::Reduce { .. } => "reduce",
            Self::Einsum { .. } => "einsum",
            Self::Embed => "embed",
            Self::EmbedGrad { .. } => "embed_grad",
            Self::RmsNorm { .. } => "rms_norm",
            Self::RmsNormGrad { .. } => "rms_norm_grad",
            Self::LayerNorm { .. } => "layer_norm",
            Self::LayerNormGrad { .. } => "layer_norm_grad",
            Self::RopeTable { .. } => "rope_table",
            Self::Rope { .. } => "rope",
            Self::Attention { .. } => "attention",
            Self::AttentionGrad { .. } => "attention_grad",
            Self::AttentionStep { .. } => "attention_step",
            Self::AttentionStepGrad { .. } => "attention_step_grad",
            Self::CrossEntropy => "cross_entropy",
            Self::CrossEntropyGrad => "cross_entropy_grad",
            Self::PartEntropy => "part_entropy",
            Self::PartEntropyGrad => "part_entropy_grad",
            Self::Route { .. } => "route",
            Self::Pick => "pick",
            Self::PickGrad { .. } => "pick_grad",
            Self::Histogram { .. } => "histogram",
            Self::Assign { .. } => "assign",
            Self::Dispatch { .. } => "dispatch",
            Self::Combine => "combine",
            Self::CombineDot => "combine_dot",
            Self::GroupedEinsum { .. } => "grouped_einsum",
            Self::Rounds { .. } => "rounds",
            Self::Portion { .. } => "portion",
            Self::SumSquares => "sum_squares",
            Self::AdamW { .. } => "adam_w",
            Self::Collective(c) => c.name(),
            Self::Handover { .. } => "handover",
            Self::KeepSlice { .. } => "keep_slice",
            Self::OwnSlice { .. } => "own_slice",
            Self::SumSlices { .. } => "sum_slices",
            Self::Await => "await",
            Self::ToHost => "to_host",
            Self::FromHost => "from_host",
            Self::Repeat { .. } => "repeat",
            Self::Call { .. } => "call",
        }
    }
}
