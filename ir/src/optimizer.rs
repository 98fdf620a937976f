//! Optimizers as data: their constants, the state they keep per weight, and the scalars that a step of theirs takes.
//!
//! The formulas are in the documentation of each variant. With p a weight, g its gradient (averaged, clipped, in f32), lr the
//! learning rate and t the step counted from 1. The pass `optimizer` writes them as programs.

use serde::{Deserialize, Serialize};

/// Where Adam corrects the bias of its moments, which start at zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasCorrection {
    /// m/(1−β₁ᵗ) over √(v/(1−β₂ᵗ)) + eps: `AdamW`.
    #[default]
    Full,
    /// √(1−β₂ᵗ)/(1−β₁ᵗ) · m over √v + eps: `AdamWeightDecayX`, and MindSpore's `Adam`.
    EpsBeforeCorrection,
    /// m over √v + eps: MindSpore's `AdamWeightDecay`, which is also what `adamw` and `FP32StateAdamWeightDecay` mean.
    None,
}

/// AdamW with decoupled weight decay; which weights decay is in their [`crate::func::Role`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWSpec {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of the weights that decay.
    pub weight_decay: f64,
    /// How the bias of the moments is corrected.
    #[serde(default)]
    pub bias_correction: BiasCorrection,
}

impl Default for AdamWSpec {
    /// The constants of `MindFormers`' `AdamW`, with the second β of pretraining.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, bias_correction: BiasCorrection::Full }
    }
}

impl AdamWSpec {
    /// `step_size` and `v_scale` of step `t`, as [`crate::op::Op::AdamW`] takes them: the rules of [`BiasCorrection`] differ in
    /// nothing else.
    fn corrections(&self, lr: f64, t: f64) -> (f64, f64) {
        let (first, second) = (1.0 - self.beta1.powf(t), 1.0 - self.beta2.powf(t));
        match self.bias_correction {
            BiasCorrection::Full => (lr / first, 1.0 / second),
            BiasCorrection::EpsBeforeCorrection => (lr * second.sqrt() / first, 1.0),
            BiasCorrection::None => (lr, 1.0),
        }
    }
}

/// How averaged weights are formed by [`OptimizerSpec::PmaAdamW`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Averaging {
    /// a ← (1−α)·a + α·p
    Ema {
        /// Weight of the new value.
        alpha: f64,
    },
    /// a ← a + p, divided by their number when it is taken over.
    Sma,
}

/// AdamW whose weights are now and then replaced by an average of earlier ones (`PmaAdamW`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PmaSpec {
    /// The step before averaging.
    pub adamw: AdamWSpec,
    /// How the average is formed.
    pub averaging: Averaging,
    /// Weights enter the average every this many steps.
    pub interleave_step: u64,
    /// The average replaces the weights, and starts anew from zero, every this many entries.
    pub fused_num: u64,
}

/// A run of consecutive rows of a matrix that Muon orthogonalises on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonPart {
    /// Rows in one period.
    pub rows: usize,
    /// Factor of the orthogonal update: `matched_adamw_rms`·√max(rows, columns).
    pub scale: f64,
}

/// A weight that Muon takes, `[…, rows, columns]`; leading dims are matrices of their own (experts).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonWeight {
    /// Global name.
    pub name: String,
    /// The parts of one period of rows, in order; the period repeats (heads). One part of all rows is the whole matrix.
    pub parts: Vec<MuonPart>,
}

/// Muon (Jordan et al. 2024) as `MindFormers` has it: the momentum of a matrix, orthogonalised by Newton and Schulz's
/// iteration in bf16.
///
/// `m ← μ·m + g; u = g + μ·m` (Nesterov) or `m`; `x₀ = u/(‖u‖ + norm_eps)`; with the next (a, b, c) of `coefficients`:
/// `A = x·xᵀ; x ← a·x + (b·A + c·A·A)·x`; `p ← p·(1 − lr·decay) − lr·scale·x`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonSpec {
    /// μ.
    pub momentum: f64,
    /// Look one step ahead.
    pub nesterov: bool,
    /// (a, b, c) of each iteration.
    pub coefficients: Vec<[f64; 3]>,
    /// Added to the norm.
    pub norm_eps: f64,
    /// For the other weights; its weight decay is everyone's.
    pub adamw: AdamWSpec,
    /// The weights it takes.
    pub weights: Vec<MuonWeight>,
}

/// CAME (Luo et al. 2023, arXiv 2307.02047) as `MindFormers` has it: Adafactor with a measure of confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameSpec {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the instability.
    pub beta3: f64,
    /// β₂ of step t is 1 − t^(−`decay_rate`).
    pub decay_rate: f64,
    /// Added to the squared gradient, smallest scale of a weight, added to the squared instability.
    pub eps: [f64; 3],
    /// Largest root mean square of an update.
    pub clip_threshold: f64,
    /// Weight decay, of every weight.
    pub weight_decay: f64,
    /// Multiply the rate by the root mean square of the weight.
    pub scale_parameter: bool,
}

/// Stochastic gradient descent with momentum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdSpec {
    /// u: decay of the velocity.
    pub momentum: f64,
    /// Part of a gradient that does not enter the velocity, from the second step on.
    pub dampening: f64,
    /// Step along g + u·v instead of v.
    pub nesterov: bool,
    /// Added to the gradient, times the weight.
    pub weight_decay: f64,
    /// Every weight decays, whatever its role says (`SGD`); otherwise those that decay (`Momentum`).
    pub decay_all: bool,
}

/// The update rule of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum OptimizerSpec {
    /// Decoupled weight decay: see [`crate::op::Op::AdamW`].
    AdamW(AdamWSpec),
    /// The same on `g + decay·p`: weight decay is part of the gradient (MindSpore's `Adam`).
    Adam(AdamWSpec),
    /// `r = m̂/(√v̂ + eps) + decay·p; p ← p − lr·(‖p‖/‖r‖)·r`, the ratio 1 where a norm is 0 (You et al. 2019).
    Lamb(AdamWSpec),
    /// See [`PmaSpec`].
    PmaAdamW(PmaSpec),
    /// See [`MuonSpec`].
    Muon(MuonSpec),
    /// See [`CameSpec`].
    Came(CameSpec),
    /// `g ← g + decay·p; v ← u·v + (1−dampening)·g; p ← p − lr·v`, or `p − lr·(g + u·v)`.
    Sgd(SgdSpec),
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self::AdamW(AdamWSpec::default())
    }
}

/// An f32 input of `update` that differs from step to step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepScalar {
    /// Name of the input; `.k` follows for group k of learning rates if it is `of_rate`.
    pub name: &'static str,
    /// Its value in this step.
    pub value: f64,
    /// It depends on the learning rate.
    pub of_rate: bool,
}

impl OptimizerSpec {
    /// The scalars that `update` takes at step `t` (from 1) with learning rate `lr`.
    pub fn scalars(&self, lr: f64, t: u64) -> Vec<StepScalar> {
        let rate = |name, value| StepScalar { name, value, of_rate: true };
        let plain = |name, value| StepScalar { name, value, of_rate: false };
        let adamw = |spec: &AdamWSpec| {
            let (step_size, v_scale) = spec.corrections(lr, t as f64);
            vec![rate("lr", lr), rate("step_size", step_size), plain("v_scale", v_scale)]
        };
        match self {
            Self::AdamW(spec) | Self::Adam(spec) | Self::Muon(MuonSpec { adamw: spec, .. }) => adamw(spec),
            Self::Lamb(spec) => {
                let (m_scale, v_scale) = spec.corrections(1.0, t as f64);
                vec![rate("lr", lr), plain("m_scale", m_scale), plain("v_scale", v_scale)]
            }
            Self::PmaAdamW(spec) => {
                let mut all = adamw(&spec.adamw);
                let [keep, take, replace] = spec.factors(t);
                all.extend([plain("average_keep", keep), plain("average_take", take), plain("replace", replace)]);
                all
            }
            Self::Came(spec) => vec![rate("lr", lr), plain("beta2", 1.0 - (t as f64).powf(-spec.decay_rate))],
            Self::Sgd(spec) => {
                // The velocity starts as the first gradient, undamped.
                let enters = if t == 1 { 1.0 } else { 1.0 - spec.dampening };
                vec![rate("lr", lr), plain("enters", enters)]
            }
        }
    }

    /// Weight decay of the weights that decay.
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::AdamW(s) | Self::Adam(s) | Self::Lamb(s) => s.weight_decay,
            Self::PmaAdamW(s) => s.adamw.weight_decay,
            Self::Muon(s) => s.adamw.weight_decay,
            Self::Came(s) => s.weight_decay,
            Self::Sgd(s) => s.weight_decay,
        }
    }
}

impl PmaSpec {
    /// Step t's factor of the old average, of the weight that enters it, and of the average in the new weight.
    fn factors(&self, t: u64) -> [f64; 3] {
        let every = |n: u64| n > 0 && t.is_multiple_of(n);
        let enters = every(self.interleave_step);
        let replaces = every(self.fused_num.saturating_mul(self.interleave_step));
        let (keep, take) = match self.averaging {
            Averaging::Ema { alpha } if enters => (1.0 - alpha, alpha),
            Averaging::Sma if enters => (1.0, 1.0),
            Averaging::Ema { .. } | Averaging::Sma => (1.0, 0.0),
        };
        [keep, take, if replaces { 1.0 } else { 0.0 }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(spec: &OptimizerSpec, lr: f64, t: u64) -> Vec<f64> {
        spec.scalars(lr, t).iter().map(|s| s.value).collect()
    }

    fn close(found: &[f64], wanted: &[f64]) {
        let right = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12 * b.abs();
        assert!(found.len() == wanted.len() && found.iter().zip(wanted).all(right), "{found:?} is not {wanted:?}");
    }

    /// β = 0.9, 0.95 at the first step and the third: 1 − 0.9³ = 0.271, 1 − 0.95³ = 0.142625.
    #[test]
    fn bias_is_corrected_as_the_rule_says() {
        let adamw = |bias_correction| OptimizerSpec::AdamW(AdamWSpec { bias_correction, ..AdamWSpec::default() });
        close(&values(&adamw(BiasCorrection::Full), 0.5, 1), &[0.5, 5.0, 20.0]);
        close(&values(&adamw(BiasCorrection::Full), 0.5, 3), &[0.5, 0.5 / 0.271, 1.0 / 0.142625]);
        close(&values(&adamw(BiasCorrection::EpsBeforeCorrection), 0.5, 1), &[0.5, 5.0 * 0.05f64.sqrt(), 1.0]);
        let third = [0.5, 0.5 * 0.142625f64.sqrt() / 0.271, 1.0];
        close(&values(&adamw(BiasCorrection::EpsBeforeCorrection), 0.5, 3), &third);
        close(&values(&adamw(BiasCorrection::None), 0.5, 3), &[0.5, 0.5, 1.0]);
    }

    #[test]
    fn an_average_takes_weights_in_and_replaces_them_when_it_is_due() {
        let adamw = AdamWSpec { bias_correction: BiasCorrection::None, ..AdamWSpec::default() };
        let pma = |averaging| {
            OptimizerSpec::PmaAdamW(PmaSpec { adamw: adamw.clone(), averaging, interleave_step: 2, fused_num: 3 })
        };
        let factors = |spec: &OptimizerSpec, t| values(spec, 1.0, t)[3..].to_vec();
        let ema = pma(Averaging::Ema { alpha: 0.25 });
        close(&factors(&ema, 1), &[1.0, 0.0, 0.0]);
        close(&factors(&ema, 2), &[0.75, 0.25, 0.0]);
        close(&factors(&ema, 6), &[0.75, 0.25, 1.0]);
        close(&factors(&pma(Averaging::Sma), 6), &[1.0, 1.0, 1.0]);
    }

    #[test]
    fn came_and_sgd_begin_without_memory() {
        let came = OptimizerSpec::Came(CameSpec {
            beta1: 0.9,
            beta3: 0.99,
            decay_rate: 0.8,
            eps: [1e-30, 1e-3, 1e-16],
            clip_threshold: 1.0,
            weight_decay: 0.0,
            scale_parameter: false,
        });
        close(&values(&came, 0.1, 1), &[0.1, 0.0]);
        close(&values(&came, 0.1, 2), &[0.1, 1.0 - 2f64.powf(-0.8)]);
        let sgd = SgdSpec { momentum: 0.9, dampening: 0.5, nesterov: false, weight_decay: 0.0, decay_all: true };
        close(&values(&OptimizerSpec::Sgd(sgd.clone()), 0.1, 1), &[0.1, 1.0]);
        close(&values(&OptimizerSpec::Sgd(sgd), 0.1, 2), &[0.1, 0.5]);
    }

    #[test]
    fn specs_survive_json() {
        let muon = OptimizerSpec::Muon(MuonSpec {
            momentum: 0.95,
            nesterov: true,
            coefficients: vec![[3.4445, -4.775, 2.0315]; 5],
            norm_eps: 1e-7,
            adamw: AdamWSpec::default(),
            weights: vec![MuonWeight { name: "w".into(), parts: vec![MuonPart { rows: 4, scale: 0.4 }] }],
        });
        let text = serde_json::to_string(&muon).unwrap();
        assert_eq!(serde_json::from_str::<OptimizerSpec>(&text).unwrap(), muon);
        let short = r#"{"type": "AdamW", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}"#;
        assert_eq!(serde_json::from_str::<OptimizerSpec>(short).unwrap(), OptimizerSpec::default());
        assert!(serde_json::from_str::<OptimizerSpec>(&short.replace("eps", "epsilon")).is_err());
    }
}
