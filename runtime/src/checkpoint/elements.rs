//! Elements of weights: copying runs of them, from one float type to another where they differ.

use super::strided::Run;
use athanor_ir::DType;
use half::{bf16, f16};

/// Elements of one type in memory, little-endian.
#[derive(Debug, Clone, Copy)]
pub struct Elements<'a> {
    /// Their type.
    pub dtype: DType,
    /// Their bytes.
    pub bytes: &'a [u8],
}

/// As [`Elements`], to write.
#[derive(Debug)]
pub struct ElementsMut<'a> {
    /// Their type.
    pub dtype: DType,
    /// Their bytes.
    pub bytes: &'a mut [u8],
}

/// Copies a run from `from`, where it begins at element `run.at`, to `to`, where it begins at `run.other`.
///
/// Equal types keep every bit; others are rounded to the nearest, ties to even.
///
/// # Panics
/// If the run leaves either side.
pub fn copy(from: Elements<'_>, to: &mut ElementsMut<'_>, run: Run) {
    if from.dtype == to.dtype {
        match from.dtype.bytes() {
            8 => bits::<8>(from.bytes, to.bytes, run),
            4 => bits::<4>(from.bytes, to.bytes, run),
            _ => bits::<2>(from.bytes, to.bytes, run),
        }
        return;
    }
    match from.dtype {
        DType::F64 => convert(from.bytes, to, run, f64::from_le_bytes),
        DType::F32 => convert(from.bytes, to, run, |b| f64::from(f32::from_le_bytes(b))),
        DType::F16 => convert(from.bytes, to, run, |b| f16::from_le_bytes(b).to_f64()),
        DType::I32 => convert(from.bytes, to, run, |b| f64::from(i32::from_le_bytes(b))),
        // What most files are and most weights become: a shift.
        DType::BF16 if to.dtype == DType::F32 => each(from.bytes, to.bytes, run, |[low, high]| [0, 0, low, high]),
        DType::BF16 => convert(from.bytes, to, run, |b| bf16::from_le_bytes(b).to_f64()),
    }
}

fn convert<const N: usize>(from: &[u8], to: &mut ElementsMut<'_>, run: Run, value: impl Fn([u8; N]) -> f64) {
    match to.dtype {
        DType::F64 => each(from, to.bytes, run, |b| value(b).to_le_bytes()),
        DType::F32 => each(from, to.bytes, run, |b| (value(b) as f32).to_le_bytes()),
        DType::BF16 => each(from, to.bytes, run, |b| bf16::from_f64(value(b)).to_le_bytes()),
        DType::F16 => each(from, to.bytes, run, |b| f16::from_f64(value(b)).to_le_bytes()),
        DType::I32 => each(from, to.bytes, run, |b| (value(b) as i32).to_le_bytes()),
    }
}

fn bits<const N: usize>(from: &[u8], to: &mut [u8], run: Run) {
    if run.step == 1 && run.other_step == 1 {
        let bytes = run.n * N;
        to[run.other * N..][..bytes].copy_from_slice(&from[run.at * N..][..bytes]);
    } else {
        each::<N, N>(from, to, run, |b| b);
    }
}

fn each<const A: usize, const B: usize>(from: &[u8], to: &mut [u8], run: Run, f: impl Fn([u8; A]) -> [u8; B]) {
    let (from, to) = (&from.as_chunks::<A>().0[run.at..], &mut to.as_chunks_mut::<B>().0[run.other..]);
    if run.step == 1 && run.other_step == 1 {
        for (t, s) in to[..run.n].iter_mut().zip(&from[..run.n]) {
            *t = f(*s);
        }
        return;
    }
    let wanted = from.iter().step_by(run.step).take(run.n);
    let mut places = to.iter_mut().step_by(run.other_step);
    for s in wanted {
        if let Some(t) = places.next() {
            *t = f(*s);
        }
    }
}

/// The value of an 8-bit float with 4 exponent bits (bias 7) and 3 of mantissa, without infinities: `F8_E4M3`.
///
/// Source: Micikevicius et al. 2022, arXiv 2209.05433, table 1.
pub fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats_have_their_values() {
        let cases = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x39, 1.125),
            (0x7e, 448.0),
            (0xc0, -2.0),
            (0xfe, -448.0),
        ];
        for (bits, value) in cases {
            assert_eq!(e4m3(bits), value, "{bits:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert!(e4m3(0x80) == 0.0 && e4m3(0x80).is_sign_negative());
    }

    #[test]
    fn runs_of_any_spacing_are_copied_and_nothing_else_is_touched() {
        let from: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut to = [9.0f32; 8].map(bf16::from_f32).map(bf16::to_le_bytes).concat();
        let run = Run { at: 0, step: 2, other: 1, other_step: 3, n: 3 };
        copy(
            Elements { dtype: DType::F32, bytes: &from },
            &mut ElementsMut { dtype: DType::BF16, bytes: &mut to },
            run,
        );
        let got: Vec<f32> = to.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect();
        assert_eq!(got, [9.0, 1.0, 9.0, 9.0, 3.0, 9.0, 9.0, 5.0]);
    }
}
