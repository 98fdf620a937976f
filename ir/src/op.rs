//! The ops: one enum that every pass, kernel table and backend matches exhaustively.
//!
//! The attributes of an op are the fields of its variant; operands and results live in [`crate::func::Node`]. Adding a
//! variant makes the compiler list what is missing: signature, inference, name, vjp, reference kernel, code generation.

use serde::{Deserialize, Serialize};

/// Element-wise function of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unary {
    /// −x
    Neg,
    /// eˣ
    Exp,
    /// ln x
    Log,
    /// √x
    Sqrt,
    /// 1/√x
    Rsqrt,
    /// 1/x
    Recip,
    /// tanh x
    Tanh,
    /// 1/(1+e⁻ˣ)
    Sigmoid,
    /// x·sigmoid(x)
    Silu,
    /// d silu(x)/dx = s·(1 + x·(1 − s)), s = sigmoid(x)
    SiluGrad,
    /// ½·x·(1+erf(x/√2)) approximated by tanh: ½·x·(1+tanh(√(2/π)·(x+0.044715·x³))), as GPT-2 (`gelu_new`)
    Gelu,
    /// d gelu(x)/dx of the tanh form
    GeluGrad,
    /// x·Φ(x) = ½·x·(1+erf(x/√2)), the exact form, as PyTorch's `gelu`
    GeluErf,
    /// d/dx of the exact form: Φ(x) + x·e^(−x²/2)/√(2π)
    GeluErfGrad,
    /// x²
    Square,
}

impl Unary {
    /// Every variant, in declaration order.
    pub const ALL: [Self; 15] = [
        Self::Neg,
        Self::Exp,
        Self::Log,
        Self::Sqrt,
        Self::Rsqrt,
        Self::Recip,
        Self::Tanh,
        Self::Sigmoid,
        Self::Silu,
        Self::SiluGrad,
        Self::Gelu,
        Self::GeluGrad,
        Self::GeluErf,
        Self::GeluErfGrad,
        Self::Square,
    ];

    /// The name in IR: `nn.exp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Neg => "neg",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Sqrt => "sqrt",
            Self::Rsqrt => "rsqrt",
            Self::Recip => "recip",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Silu => "silu",
            Self::SiluGrad => "silu_grad",
            Self::Gelu => "gelu",
            Self::GeluGrad => "gelu_grad",
            Self::GeluErf => "gelu_erf",
            Self::GeluErfGrad => "gelu_erf_grad",
            Self::Square => "square",
        }
    }

    /// The value at `x`.
    pub fn eval(self, x: f64) -> f64 {
        /// √(2/π)
        const C: f64 = 0.797_884_560_802_865_4;
        /// 1/√(2π)
        const DENSITY: f64 = 0.398_942_280_401_432_7;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        // Φ(x), by erfc so that the lower tail keeps its digits.
        let below = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        match self {
            Self::Neg => -x,
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Sqrt => x.sqrt(),
            Self::Rsqrt => x.sqrt().recip(),
            Self::Recip => x.recip(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => x * sigmoid(x),
            Self::SiluGrad => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
            Self::Gelu => 0.5 * x * (1.0 + (C * (x + 0.044715 * x * x * x)).tanh()),
            Self::GeluGrad => {
                let t = (C * (x + 0.044715 * x * x * x)).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * C * (1.0 + 3.0 * 0.044715 * x * x)
            }
            Self::GeluErf => x * below(x),
            Self::GeluErfGrad => below(x) + x * DENSITY * (-0.5 * x * x).exp(),
            Self::Square => x * x,
        }
    }
}

/// Element-wise function of two operands of equal dims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binary {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// max(a, b)
    Max,
    /// min(a, b)
    Min,
}

impl Binary {
    /// Every variant, in declaration order.
    pub const ALL: [Self; 6] = [Self::Add, Self::Sub, Self::Mul, Self::Div, Self::Max, Self::Min];

    /// The name in IR: `nn.add`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Max => "max",
            Self::Min => "min",
        }
    }

    /// The value at `(a, b)`.
    pub fn eval(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Max => a.max(b),
            Self::Min => a.min(b),
        }
    }
}

/// How a reduction combines elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceKind {
    /// Sum.
    Sum,
    /// Maximum.
    Max,
}

impl ReduceKind {
    /// The spelling in IR.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
        }
    }
}

/// An f64 attribute with bitwise equality and hash, so that ops can be compared and shared by structure.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct F64(pub f64);

impl PartialEq for F64 {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for F64 {}
impl std::hash::Hash for F64 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}
impl PartialOrd for F64 {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for F64 {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
impl From<f64> for F64 {
    fn from(value: f64) -> Self {
        Self(value)
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
    /// (ids i32 […], table [v, h]) → […, h]: row `ids[…]` of the table.
    Embed,
    /// (ids i32 […], dy […, h]) → [v, h]: sum of the rows of `dy` by id.
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
    /// (q [b, s, n, d], k [b, s, g, d], v [b, s, g, e]) → (out [b, s, n, e], lse [b, n, s] f32): softmax attention;
    /// query head i reads key/value head i·g/n; softmax in f32.
    Attention {
        /// Multiplies the scores.
        scale: F64,
        /// Position i sees positions ≤ i only.
        causal: bool,
    },
    /// (q, k, v, out, lse, dout) → (dq, dk, dv).
    AttentionGrad {
        /// As in the forward op.
        scale: F64,
        /// As in the forward op.
        causal: bool,
    },
    /// (logits […, v], labels i32 […]) → (loss f32 […], lse f32 […]): lse − logit\[label\].
    CrossEntropy,
    /// (logits […, v], labels i32 […], lse f32 […], dloss f32 […]) → dlogits = (exp(logit − lse) − onehot)·dloss.
    CrossEntropyGrad,
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
    /// Runs another function of the module on the operands.
    Call {
        /// Name of the function.
        callee: String,
    },
}

impl Op {
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
            Self::CrossEntropy => "cross_entropy",
            Self::CrossEntropyGrad => "cross_entropy_grad",
            Self::SumSquares => "sum_squares",
            Self::AdamW { .. } => "adam_w",
            Self::Call { .. } => "call",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Unary;

    /// Values of C's `erfc`.
    #[test]
    fn the_exact_gelu_is_that_of_the_normal_distribution() {
        for (x, y, slope) in [
            (1.0, 0.841_344_746_068_542_9, 1.083_315_470_587_686_4),
            (-0.5, -0.154_268_769_362_993_44, 0.132_504_875_343_837_12),
            (0.0, 0.0, 0.5),
            (-6.0, -5.919_525_870_226_207e-9, -3.546_870_945_390_2e-8),
        ] {
            for (f, wanted) in [(Unary::GeluErf, y), (Unary::GeluErfGrad, slope)] {
                let found: f64 = f.eval(x);
                assert!((found - wanted).abs() <= 1e-12 * wanted.abs(), "{f:?} at {x} is {found}");
            }
        }
    }
}
