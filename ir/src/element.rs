//! Functions of elements: what `nn.exp`, `nn.add` and kin compute, and reductions.

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
    /// −1, 0 or 1 with the sign of x
    Sign,
}

impl Unary {
    /// Every variant, in declaration order.
    pub const ALL: [Self; 16] = [
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
        Self::Sign,
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
            Self::Sign => "sign",
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
            // Not f64::signum, which is 1 at 0.
            Self::Sign => f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
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
