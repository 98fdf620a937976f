//! Rotary frequencies.

use std::f64::consts::PI;

use athanor_ir::{DType, F64, Op, TensorType, ValueId};

use super::Net;
use crate::config::{PositionEmbedding, Rope, RopeScaling, Yarn, YarnMagnitude};

/// Angular frequency of each rotated pair, radians per position, and the factor on cos and sin.
///
/// `dims` is the number of rotated elements of a head, `len` the length of the sequences.
pub fn frequencies(rope: &Rope, dims: usize, len: usize) -> (Vec<f64>, f64) {
    let plain = |theta: f64| -> Vec<f64> { (0..dims / 2).map(|i| theta.powf(-2.0 * i as f64 / dims as f64)).collect() };
    let theta = rope.theta.value;
    match rope.scaling.value {
        RopeScaling::Default => (plain(theta), 1.0),
        RopeScaling::Linear { factor } => (plain(theta).into_iter().map(|f| f / factor).collect(), 1.0),
        // NTK by length: the base grows so that the slowest pair turns as much over `len` as before over `original`.
        RopeScaling::Dynamic { factor, original_max_position_embeddings: original } => {
            let stretch = (factor * len.max(original) as f64 / original as f64) - (factor - 1.0);
            (plain(theta * stretch.powf(dims as f64 / (dims as f64 - 2.0))), 1.0)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = original_max_position_embeddings as f64;
            let scaled = plain(theta).into_iter().map(|f| {
                // Turns over the original context: few are divided, many kept, between them a mix.
                let turns = original * f / (2.0 * PI);
                let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 - keep) * f / factor + keep * f
            });
            (scaled.collect(), 1.0)
        }
        RopeScaling::Yarn(yarn) => {
            let scaled = yarn_frequencies(&yarn, theta, plain(theta));
            match yarn.magnitude_of {
                YarnMagnitude::CosSin => (scaled, yarn.attention_factor),
                YarnMagnitude::Angle => (scaled.into_iter().map(|f| f * yarn.attention_factor).collect(), 1.0),
            }
        }
    }
}

/// Pairs that turn often over the original context are kept, those that turn seldom divided, between them a ramp.
fn yarn_frequencies(yarn: &Yarn, theta: f64, plain: Vec<f64>) -> Vec<f64> {
    let dims = 2.0 * plain.len() as f64;
    // The pair (as a real number) that makes so many turns over the original context.
    let pair = |turns: f64| {
        dims * (yarn.original_max_position_embeddings as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dims - 1.0));
    if low == high {
        high += 0.001;
    }
    let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
    plain.into_iter().enumerate().map(|(i, f)| f / yarn.factor * ramp(i) + f * (1.0 - ramp(i))).collect()
}

/// The tables of a rotation, computed once for all layers.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    cos: ValueId,
    sin: ValueId,
    interleaved: bool,
}

impl Net<'_> {
    /// cos and sin for every position, f32; `None` for models that do not rotate.
    pub fn rope_tables(&mut self) -> Option<Tables> {
        let PositionEmbedding::Rope(rope) = &self.m.position_embedding.value else { return None };
        let head = self.m.latent.as_ref().map_or(self.m.kv_channels, |l| l.qk_pos_emb_head_dim);
        let (len, head) = (self.m.seq_length.value, head.value as f64);
        let dims = (head * rope.partial_rotary_factor.value) as usize;
        let (inv_freq, scale) = frequencies(rope, dims, len);
        let ty = TensorType::new(DType::F32, [len, dims / 2]);
        let op = Op::RopeTable { inv_freq: inv_freq.into_iter().map(F64).collect(), scale: F64(scale) };
        let (interleaved, span) = (rope.interleaved.value, rope.scaling.span.or(rope.theta.span));
        let tables = self.scope("rotary_emb", span, |n| n.b.func.push(op, &[], vec![ty.clone(), ty], &n.b.loc));
        Some(Tables { cos: tables[0], sin: tables[1], interleaved })
    }

    /// Rotates the heads of `x [b, s, n, d]`.
    pub fn rotate(&mut self, x: ValueId, tables: Option<Tables>) -> ValueId {
        let Some(Tables { cos, sin, interleaved }) = tables else { return x };
        self.b.many(Op::Rope { interleaved, inverse: false }, &[x, cos, sin])[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Spanned;

    fn rope(theta: f64, scaling: RopeScaling) -> Rope {
        let (factor, interleaved) = (Spanned::default(1.0), Spanned::default(false));
        Rope {
            theta: Spanned::default(theta),
            scaling: Spanned::default(scaling),
            partial_rotary_factor: factor,
            interleaved,
        }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9 * b.abs().max(1e-3), "{a} != {b}");
    }

    #[test]
    fn frequencies_fall_from_one() {
        let (f, scale) = frequencies(&rope(10_000.0, RopeScaling::Default), 4, 8);
        assert_eq!((f.len(), scale), (2, 1.0));
        close(f[0], 1.0);
        close(f[1], 0.01);
        close(frequencies(&rope(10_000.0, RopeScaling::Linear { factor: 4.0 }), 4, 8).0[1], 0.0025);
    }

    /// YaRN of DeepSeek-V3 (models.md 3.3): the ramp goes from pair 10 to pair 23.
    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let yarn = Yarn {
            factor: 40.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.5,
            magnitude_of: YarnMagnitude::CosSin,
            truncate: true,
        };
        let plain = |i: usize| 10_000f64.powf(-2.0 * i as f64 / 64.0);
        let (f, scale) = frequencies(&rope(10_000.0, RopeScaling::Yarn(yarn)), 64, 8);
        close(scale, 1.5);
        close(f[10], plain(10));
        close(f[23], plain(23) / 40.0);
        close(f[16], plain(16) * (7.0 / 13.0 + 6.0 / 13.0 / 40.0));
        let angle = Yarn { magnitude_of: YarnMagnitude::Angle, ..yarn };
        let (f, scale) = frequencies(&rope(10_000.0, RopeScaling::Yarn(angle)), 64, 8);
        close(scale, 1.0);
        close(f[10], plain(10) * 1.5);
    }

    #[test]
    fn llama3_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let (f, _) = frequencies(&rope(500_000.0, scaling), 128, 8);
        close(f[0], 1.0);
        close(f[63], 500_000f64.powf(-126.0 / 128.0) / 8.0);
    }

    #[test]
    fn dynamic_scaling_begins_beyond_the_original_length() {
        let scaling = RopeScaling::Dynamic { factor: 2.0, original_max_position_embeddings: 16 };
        let at = |len| frequencies(&rope(10_000.0, scaling), 4, len).0[1];
        close(at(8), 0.01);
        close(at(16), 0.01);
        // Twice the length: base · 3^(4/2).
        close(at(32), 90_000f64.powf(-0.5));
    }
}
