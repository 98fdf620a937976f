//! Experts: which layers have them, how tokens are sent to them, what keeps their load even.

mod legacy;
mod read;

use crate::config::span::Spanned;

use super::Dtype;
pub(super) use legacy::read as read_legacy;
pub(super) use read::{Around, read};

/// A mixture of experts in place of the feed-forward layer.
#[derive(Debug, Clone)]
pub struct Moe {
    /// Experts of a layer that tokens are sent to.
    pub num_experts: Spanned<usize>,
    /// Inner width of an expert.
    pub ffn_hidden_size: Spanned<usize>,
    /// For each layer of the decoder, whether it has experts.
    pub layers: Spanned<Vec<bool>>,
    /// Who goes where.
    pub router: Router,
    /// The most tokens an expert takes; `None` drops no token.
    pub capacity: Option<Capacity>,
    /// The expert that every token goes to.
    pub shared: Option<SharedExpert>,
    /// Loss on uneven load.
    pub balance: Balance,
    /// Factor of the mean of squares of the router's log-sum-exp.
    pub z_loss_coeff: Spanned<f64>,
}

/// Scores of experts, and the choice by them.
#[derive(Debug, Clone)]
pub struct Router {
    /// Experts that a token goes to.
    pub topk: Spanned<usize>,
    /// From logits to scores.
    pub score: Spanned<ScoreFunction>,
    /// Divide the scores of the chosen by their sum.
    pub normalize: Spanned<bool>,
    /// Factor on the weights.
    pub scaling: Spanned<f64>,
    /// Choose experts from the best groups only.
    pub groups: Option<Groups>,
    /// A bias on the scores for the choice alone, moved by this much a step against the load.
    pub bias_rate: Option<Spanned<f64>>,
    /// Type of the router's product and scores.
    pub dtype: Spanned<Dtype>,
}

/// How a logit becomes a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreFunction {
    /// Over all experts.
    Softmax,
    /// Of each.
    Sigmoid,
    /// √ln(1 + eˣ) of each.
    SqrtSoftplus,
}

/// Groups of neighbouring experts.
#[derive(Debug, Clone)]
pub struct Groups {
    /// Groups of equal size.
    pub num: Spanned<usize>,
    /// Groups that are kept for a token.
    pub topk: Spanned<usize>,
    /// A group's score is the sum of so many best ones in it.
    pub best: Spanned<usize>,
    /// What the scores of the other groups' experts become.
    pub mask: Spanned<GroupMask>,
}

/// What stands for the scores of experts outside of the kept groups. The two differ if a kept score is below 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupMask {
    /// 0: Hugging Face, `MindFormers`' graph mode.
    Zero,
    /// −∞: `DeepSeek`'s own code, `MindFormers`' `PyNative` mode.
    NegativeInfinity,
}

/// A limit on the tokens of an expert.
#[derive(Debug, Clone)]
pub struct Capacity {
    /// Times an even share of the micro-batch.
    pub factor: Spanned<f64>,
    /// Which tokens are dropped beyond it.
    pub policy: Spanned<DropPolicy>,
}

/// Which tokens an expert drops when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropPolicy {
    /// Those of the smallest weights.
    Probs,
    /// The last ones.
    Position,
}

/// Shared experts, which are one wide expert.
#[derive(Debug, Clone)]
pub struct SharedExpert {
    /// Inner width of all of them together.
    pub ffn_hidden_size: Spanned<usize>,
    /// Times the sigmoid of a projection of the token.
    pub gated: Spanned<bool>,
}

/// Loss on uneven load: α·Σ f·P over experts, with f the share of tokens and P the mean score.
#[derive(Debug, Clone)]
pub struct Balance {
    /// Which tokens are counted together.
    pub kind: Spanned<AuxLoss>,
    /// α; 0 is none.
    pub coeff: Spanned<f64>,
    /// Which choice is counted in f.
    pub counts: Spanned<LoadCounts>,
}

/// What the balance loss counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuxLoss {
    /// Each sequence.
    Sequence,
    /// Each tensor-parallel rank's part of a sequence.
    SubSequence,
    /// The micro-batches of the step so far.
    GlobalBatch,
}

/// The choice that the balance loss counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadCounts {
    /// The experts that tokens went to: `MindFormers`' graph mode.
    Selected,
    /// The best ones by score, without bias and groups: the paper, `MindFormers`' `PyNative` mode.
    Unbiased,
}

impl Router {
    /// True if experts may be chosen that are not the best by score.
    pub fn chooses_otherwise(&self) -> bool {
        self.bias_rate.is_some() || self.groups.is_some()
    }
}
