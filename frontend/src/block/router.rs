//! The router: scores of experts, the choice by them, and the losses that keep the load even.
//!
//! Everything here is in f32 but for the product that gives the logits, which is in the dtype the router is configured with.

use athanor_ir::{Binary, DType, Op, ReduceKind, Role, RouteMask, TensorType, Unary, ValueId};

use super::{Net, dtype};
use crate::config::{AuxLoss, GroupMask, LoadCounts, Moe, Router, ScoreFunction};

/// Who goes where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routed {
    /// The experts of each token, i32 `[b, s, k]`.
    pub ids: ValueId,
    /// Their weights, f32 `[b, s, k]`.
    pub weights: ValueId,
}

impl Net<'_> {
    /// Routes `x [b, s, h]`; the router's weight is `gate` of the current block. (models.md 3.4)
    ///
    /// s = score(x·Wᵀ); the experts are the best by s + bias, and count with s of their own, divided by its sum over the
    /// chosen (plus 1e-20) if `norm_topk_prob` says so, times a factor.
    pub(super) fn route(&mut self, x: ValueId, moe: &Moe) -> Routed {
        let r = &moe.router;
        let block = self.b.loc.block.to_string();
        self.scope("gate", r.topk.span, |n| {
            let logits = n.router_logits(x, moe);
            let scores = n.scores(logits, r.score.value);
            let bias = r.bias_rate.map(|rate| n.expert_bias(&block, moe.num_experts.value, rate.value));
            let ids = n.choose(scores, bias, r);
            let chosen = n.b.many(Op::Pick, &[scores, ids])[0];
            let weights = n.weigh(chosen, r);
            n.load(&block, ids, scores, moe);
            if moe.z_loss_coeff.value > 0.0 {
                n.z_loss(logits, moe);
            }
            Routed { ids, weights }
        })
    }

    /// x·Wᵀ, f32 `[b, s, e]`.
    fn router_logits(&mut self, x: ValueId, moe: &Moe) -> ValueId {
        let ty = dtype(moe.router.dtype.value);
        let init = self.normal();
        let w = self.weight("weight", &[moe.num_experts.value, self.m.hidden_size.value], init);
        let (x, w) = (self.b.cast(x, ty), self.b.cast(w, ty));
        let logits = self.b.einsum("bsh,eh->bse", x, w);
        self.b.cast(logits, DType::F32)
    }

    fn scores(&mut self, logits: ValueId, score: ScoreFunction) -> ValueId {
        match score {
            ScoreFunction::Sigmoid => self.b.unary(Unary::Sigmoid, logits),
            ScoreFunction::Softmax => {
                let (shifted, _) = self.below_the_maximum(logits);
                let exp = self.b.unary(Unary::Exp, shifted);
                self.divided_by_sum(exp, 0.0)
            }
            // ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|)
            ScoreFunction::SqrtSoftplus => {
                let ty = self.b.ty(logits);
                let (zero, one) = (self.b.constant(0.0, ty.clone()), self.b.constant(1.0, ty));
                let positive = self.b.binary(Binary::Max, logits, zero);
                let negative = self.b.binary(Binary::Min, logits, zero);
                let distance = self.b.binary(Binary::Sub, negative, positive);
                let exp = self.b.unary(Unary::Exp, distance);
                let above = self.b.add(one, exp);
                let log = self.b.unary(Unary::Log, above);
                let softplus = self.b.add(positive, log);
                self.b.unary(Unary::Sqrt, softplus)
            }
        }
    }

    /// x − max(x) and max(x), over the last of three dims.
    fn below_the_maximum(&mut self, x: ValueId) -> (ValueId, ValueId) {
        let to = self.b.ty(x).dims;
        let most = self.b.reduce(ReduceKind::Max, x, &[2]);
        let wide = self.b.broadcast(most, &[0, 1], &to);
        (self.b.binary(Binary::Sub, x, wide), most)
    }

    /// x / (Σx + small), over the last of three dims.
    fn divided_by_sum(&mut self, x: ValueId, small: f64) -> ValueId {
        let to = self.b.ty(x).dims;
        let mut sum = self.b.reduce(ReduceKind::Sum, x, &[2]);
        if small > 0.0 {
            let small = self.b.constant(small, self.b.ty(sum));
            sum = self.b.add(sum, small);
        }
        let sum = self.b.broadcast(sum, &[0, 1], &to);
        self.b.binary(Binary::Div, x, sum)
    }

    /// The bias on the choice, under Hugging Face's name; `update` moves it by the load of `block`.
    fn expert_bias(&mut self, block: &str, experts: usize, rate: f64) -> ValueId {
        let loc = self.b.loc.clone();
        let name = format!("{}.e_score_correction_bias", loc.block);
        let role = Role::ExpertBias { load: format!("expert_load.{block}"), rate };
        self.b.func.param(name, TensorType::new(DType::F32, [experts]), role, loc)
    }

    fn choose(&mut self, scores: ValueId, bias: Option<ValueId>, r: &Router) -> ValueId {
        let (groups, group_k, group_top, mask) = match &r.groups {
            Some(g) => (g.num.value, g.topk.value, g.best.value, g.mask.value),
            None => (1, 1, 1, GroupMask::Zero),
        };
        let mask = match mask {
            GroupMask::Zero => RouteMask::Zero,
            GroupMask::NegativeInfinity => RouteMask::NegInf,
        };
        let op = Op::Route { k: r.topk.value, groups, group_k, group_top, mask };
        let operands: Vec<ValueId> = [scores].into_iter().chain(bias).collect();
        self.b.many(op, &operands)[0]
    }

    fn weigh(&mut self, chosen: ValueId, r: &Router) -> ValueId {
        let normalize = r.normalize.value && r.topk.value > 1;
        let weights = if normalize { self.divided_by_sum(chosen, 1e-20) } else { chosen };
        if r.scaling.value == 1.0 { weights } else { self.times(weights, r.scaling.value) }
    }

    /// Counts the tokens of each expert, and adds the balance loss if there is one.
    fn load(&mut self, block: &str, ids: ValueId, scores: ValueId, moe: &Moe) {
        let counts = self.counts(ids, moe);
        let load = self.b.reduce(ReduceKind::Sum, counts, &[0]);
        self.side.load.push((block.to_owned(), load));
        let balance = &moe.balance;
        if balance.coeff.value <= 0.0 {
            return;
        }
        let counts = if balance.counts.value == LoadCounts::Unbiased && moe.router.chooses_otherwise() {
            let k = moe.router.topk.value;
            let op = Op::Route { k, groups: 1, group_k: 1, group_top: 1, mask: RouteMask::Zero };
            let best = self.b.many(op, &[scores])[0];
            self.counts(best, moe)
        } else {
            counts
        };
        // A softmax sums to one already.
        let shares =
            if moe.router.score.value == ScoreFunction::Softmax { scores } else { self.divided_by_sum(scores, 1e-20) };
        let loss = self.balance_loss(counts, shares, moe);
        self.side.balance.push(loss);
    }

    /// Tokens of each expert in each sequence, f32 `[b, e]`.
    fn counts(&mut self, ids: ValueId, moe: &Moe) -> ValueId {
        let [b, s, _] = self.activation(0);
        let flat = self.b.reshape(ids, &[b, s * moe.router.topk.value]);
        self.b.many(Op::Histogram { bins: moe.num_experts.value }, &[flat])[0]
    }

    /// `α·Σ_e` f·P with f = E/(K·tokens)·counts and P the mean share, both over a sequence and then averaged over sequences,
    /// or over all tokens of the micro-batch.
    fn balance_loss(&mut self, counts: ValueId, shares: ValueId, moe: &Moe) -> ValueId {
        let [b, s, _] = self.activation(0);
        let (experts, k) = (moe.num_experts.value as f64, moe.router.topk.value as f64);
        let summed = self.b.reduce(ReduceKind::Sum, shares, &[1]);
        let coeff = moe.balance.coeff.value * experts / k;
        let (counts, summed, tokens, sequences) = match moe.balance.kind.value {
            AuxLoss::Sequence | AuxLoss::SubSequence => (counts, summed, s, b),
            AuxLoss::GlobalBatch => {
                let all = |n: &mut Self, x| n.b.reduce(ReduceKind::Sum, x, &[0]);
                let (counts, summed) = (all(self, counts), all(self, summed));
                if self.micro_batches > 1 {
                    return self.running_balance_loss(counts, summed, moe);
                }
                (counts, summed, b * s, 1)
            }
        };
        let product = self.b.mul(counts, summed);
        let dims: Vec<usize> = (0..self.b.ty(product).rank()).collect();
        let sum = self.b.reduce(ReduceKind::Sum, product, &dims);
        let tokens = tokens as f64;
        self.times(sum, coeff / (tokens * tokens * sequences as f64))
    }

    /// The same with f over the micro-batches of the step so far, whose counts are kept in `balance_load.BLOCK`.
    fn running_balance_loss(&mut self, counts: ValueId, summed: ValueId, moe: &Moe) -> ValueId {
        let [b, s, _] = self.activation(0);
        let loc = self.b.loc.clone();
        let name = format!("balance_load.{}", loc.block);
        let before = self.b.func.param(name.clone(), self.b.ty(counts), Role::Grad, loc);
        let counts = self.b.add(before, counts);
        self.side.state.push((name, counts));
        let product = self.b.mul(counts, summed);
        let sum = self.b.reduce(ReduceKind::Sum, product, &[0]);
        let all = self.b.reduce(ReduceKind::Sum, counts, &[0]);
        let mean = self.b.binary(Binary::Div, sum, all);
        self.times(mean, moe.balance.coeff.value * moe.num_experts.value as f64 / (b * s) as f64)
    }

    /// coefficient · mean of (ln Σ eˣ)² over tokens.
    fn z_loss(&mut self, logits: ValueId, moe: &Moe) {
        let (shifted, most) = self.below_the_maximum(logits);
        let exp = self.b.unary(Unary::Exp, shifted);
        let sum = self.b.reduce(ReduceKind::Sum, exp, &[2]);
        let log = self.b.unary(Unary::Log, sum);
        let lse = self.b.add(most, log);
        let square = self.b.unary(Unary::Square, lse);
        let sum = self.b.reduce(ReduceKind::Sum, square, &[0, 1]);
        let [b, s, _] = self.activation(0);
        let loss = self.times(sum, moe.z_loss_coeff.value / (b * s) as f64);
        self.side.z.push(loss);
    }
}
