//! Element types and tensor types.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary64. Gradient checks run in it.
    F64,
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE binary16.
    F16,
    /// Signed 32-bit integer: token ids, labels.
    I32,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }

    /// The MLIR spelling: `f32`, `bf16`, `i32`, …
    pub const fn mlir(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::I32 => "i32",
        }
    }

    /// Inverse of [`DType::mlir`].
    pub fn from_mlir(text: &str) -> Option<Self> {
        [Self::F64, Self::F32, Self::BF16, Self::F16, Self::I32].into_iter().find(|d| d.mlir() == text)
    }

    /// True for every type but integers.
    pub const fn is_float(self) -> bool {
        !matches!(self, Self::I32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mlir())
    }
}

/// Type of a value: element type and static dims, row-major. A scalar has no dims.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extent of each dim, outermost first.
    pub dims: Vec<usize>,
}

impl TensorType {
    /// A tensor of `dtype` with these dims.
    pub fn new(dtype: DType, dims: impl Into<Vec<usize>>) -> Self {
        Self { dtype, dims: dims.into() }
    }

    /// A tensor without dims.
    pub fn scalar(dtype: DType) -> Self {
        Self::new(dtype, [])
    }

    /// Number of dims.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// The same dims with another element type.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, dims: self.dims.clone() }
    }

    /// The same element type with other dims.
    #[must_use]
    pub fn with_dims(&self, dims: impl Into<Vec<usize>>) -> Self {
        Self { dtype: self.dtype, dims: dims.into() }
    }
}

/// Prints as MLIR does: `tensor<2x3xf32>`.
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensor<")?;
        for d in &self.dims {
            write!(f, "{d}x")?;
        }
        write!(f, "{}>", self.dtype)
    }
}
