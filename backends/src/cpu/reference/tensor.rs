//! Typed buffers in and out of f64.

use athanor_ir::{DType, TensorType};
use half::{bf16, f16};

/// An operand: its type and its row-major bytes, of any alignment.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Type of the operand.
    pub ty: &'a TensorType,
    /// `ty.bytes()` bytes in the machine's order.
    pub bytes: &'a [u8],
}

/// A result: its type and the bytes to overwrite.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// Type of the result.
    pub ty: &'a TensorType,
    /// `ty.bytes()` bytes in the machine's order.
    pub bytes: &'a mut [u8],
}

/// A tensor that owns its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its type.
    pub ty: TensorType,
    /// `ty.bytes()` bytes in the machine's order.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(ty: TensorType) -> Self {
        Self { bytes: vec![0; ty.bytes()], ty }
    }

    /// `data`, rounded to nearest even, as a tensor of type `ty`; its length must be the number of elements.
    pub fn new(ty: TensorType, data: &[f64]) -> Self {
        let mut out = Self::zeros(ty);
        let Self { ty, bytes } = &mut out;
        store(&mut ViewMut { ty, bytes }, data).expect("one value for each element");
        out
    }

    /// An f64 tensor.
    pub fn from_f64(dims: &[usize], data: &[f64]) -> Self {
        Self::new(TensorType::new(DType::F64, dims), data)
    }

    /// An f32 tensor.
    pub fn from_f32(dims: &[usize], data: &[f32]) -> Self {
        let ty = TensorType::new(DType::F32, dims);
        assert_eq!(ty.elements(), data.len(), "one value for each element");
        Self { ty, bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// An i32 tensor.
    pub fn from_i32(dims: &[usize], data: &[i32]) -> Self {
        let ty = TensorType::new(DType::I32, dims);
        assert_eq!(ty.elements(), data.len(), "one value for each element");
        Self { ty, bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// A scalar of `dtype`.
    pub fn scalar(dtype: DType, value: f64) -> Self {
        Self::new(TensorType::scalar(dtype), &[value])
    }

    /// The elements in row-major order.
    pub fn to_f64(&self) -> Vec<f64> {
        read(self.ty.dtype, &self.bytes)
    }

    /// The tensor as an operand.
    pub fn view(&self) -> View<'_> {
        View { ty: &self.ty, bytes: &self.bytes }
    }
}

/// An operand in f64.
#[derive(Debug)]
pub(super) struct Array {
    /// What the elements were stored as.
    pub dtype: DType,
    pub dims: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    /// Rows and length of a row, the last dim being the row; a scalar is one row of one.
    pub fn rows(&self) -> (usize, usize) {
        let n = self.dims.last().copied().unwrap_or(1);
        (self.dims.iter().rev().skip(1).product(), n)
    }
}

fn read(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    fn each<T: bytemuck::AnyBitPattern>(bytes: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
        bytes.chunks_exact(size_of::<T>()).map(|c| f(bytemuck::pod_read_unaligned(c))).collect()
    }
    match dtype {
        DType::F64 => each(bytes, |x: f64| x),
        DType::F32 => each(bytes, |x: f32| f64::from(x)),
        DType::BF16 => each(bytes, |x: u16| f64::from(bf16::from_bits(x).to_f32())),
        DType::F16 => each(bytes, |x: u16| f64::from(f16::from_bits(x).to_f32())),
        DType::I32 => each(bytes, |x: i32| f64::from(x)),
    }
}

pub(super) fn load(view: &View<'_>) -> Result<Array, String> {
    if view.bytes.len() != view.ty.bytes() {
        return Err(format!("an operand {} has {} bytes", view.ty, view.bytes.len()));
    }
    Ok(Array { dtype: view.ty.dtype, dims: view.ty.dims.clone(), data: read(view.ty.dtype, view.bytes) })
}

pub(super) fn store(out: &mut ViewMut<'_>, data: &[f64]) -> Result<(), String> {
    fn each<const N: usize>(bytes: &mut [u8], data: &[f64], f: impl Fn(f64) -> [u8; N]) {
        for (place, x) in bytes.chunks_exact_mut(N).zip(data) {
            place.copy_from_slice(&f(*x));
        }
    }
    if out.bytes.len() != out.ty.bytes() || data.len() != out.ty.elements() {
        return Err(format!("a result {} has {} bytes and {} values", out.ty, out.bytes.len(), data.len()));
    }
    match out.ty.dtype {
        DType::F64 => each(out.bytes, data, f64::to_ne_bytes),
        DType::F32 => each(out.bytes, data, |x| (x as f32).to_ne_bytes()),
        DType::BF16 => each(out.bytes, data, |x| bf16::from_f32(round_to_odd(x)).to_ne_bytes()),
        DType::F16 => each(out.bytes, data, |x| f16::from_f32(round_to_odd(x)).to_ne_bytes()),
        DType::I32 => each(out.bytes, data, |x| (x as i32).to_ne_bytes()),
    }
    Ok(())
}

/// `x` rounded to nearest even in `dtype`.
pub(super) fn rounded(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F64 | DType::I32 => x,
        DType::F32 => f64::from(x as f32),
        DType::BF16 => f64::from(bf16::from_f32(round_to_odd(x))),
        DType::F16 => f64::from(f16::from_f32(round_to_odd(x))),
    }
}

/// `x` as f32, inexact values with their last bit set: rounding that again to a shorter type is as if done once.
fn round_to_odd(x: f64) -> f32 {
    let near = x as f32;
    if near.is_infinite() || f64::from(near) == x || near.is_nan() {
        return near;
    }
    let below = if f64::from(near).abs() > x.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(below | 1)
}
