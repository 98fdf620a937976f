//! Meshes, schedules and what else may be asked for, drawn at random: the numbers are those of one device.

mod support;

use athanor_passes::compile::OptLevel;
use athanor_runtime::checkpoint::Resume;
use athanor_runtime::metrics::json::Line;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::collections::HashMap;
use support::mesh::{BY_TWO, Compiled, DEEPSEEK, Spread, agree, zero};

/// Sequences of a step.
const SEQUENCES: usize = 8;
/// Steps of a run.
const STEPS: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Model {
    Llama,
    DeepSeek,
    /// With a further token.
    Further,
}

impl Model {
    /// Four layers, drawn from the seed.
    fn changes(self) -> Vec<(&'static str, &'static str)> {
        let mut all = vec![];
        if self != Self::Llama {
            all.extend(DEEPSEEK);
        }
        all.extend([("load_checkpoint", ""), ("model.model_config.num_layers", "4")]);
        if self == Self::Further {
            all.push(("model.model_config.mtp_num_layers", "1"));
        }
        all
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Gpipe,
    OneFOneB,
    Interleaved,
    ZeroBubbleV,
}

/// How ranks with parts of sequences come to all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    Gathered,
    Exchanged,
    Both,
}

/// What is trained, and how.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct Draw {
    model: Model,
    on: Spread,
    ep: usize,
    cp: usize,
    keys: Keys,
    /// Keys go from rank to rank instead of being gathered.
    ring: bool,
    order: Order,
    /// What replicas share of weights.
    zero: usize,
    /// Two at a time.
    by_two: bool,
    vocabulary: bool,
    sequence: bool,
    recompute: bool,
    /// Values on the host between the forward and the backward part.
    swap: bool,
    /// The optimizer's state on the host between steps.
    swap_optimizer: bool,
    fused: bool,
}

impl Draw {
    /// Whether such a run exists.
    fn exists(&self) -> bool {
        let Spread { pp, dp, tp, micro, sequences } = self.on;
        let chunks = matches!(self.order, Order::Interleaved | Order::ZeroBubbleV);
        let order = match self.order {
            Order::OneFOneB => true,
            Order::Gpipe | Order::Interleaved => pp > 1,
            Order::ZeroBubbleV => pp > 1 && micro >= 2 * pp,
        };
        // Of the two key heads of all models.
        let heads = match self.keys {
            Keys::Gathered => 1,
            Keys::Exchanged => self.cp,
            Keys::Both => 2,
        };
        order
            && pp * dp * tp * self.cp <= 8
            && heads * tp <= 2
            && (self.keys != Keys::Both || self.cp == 4)
            && (self.keys == Keys::Gathered || self.cp > 1)
            && (!self.ring || self.cp > 1 && self.keys != Keys::Exchanged)
            && (pp == 1 || micro >= pp)
            && (!chunks || pp == 2)
            && sequences >= dp * micro
            && dp.is_multiple_of(self.ep)
            && (self.ep == 1 || self.model != Model::Llama)
            && (tp > 1 || !self.vocabulary && !self.sequence)
            && (!self.by_two || self.zero > 0 && dp == 4 && self.ep <= 2)
    }

    fn opt(&self) -> OptLevel {
        if self.fused { OptLevel::O1 } else { OptLevel::O0 }
    }

    fn changes(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = self.model.changes();
        let scheduler = "parallel.pipeline_config.pipeline_scheduler";
        all.extend(match self.order {
            Order::Gpipe => Some((scheduler, "gpipe")),
            Order::OneFOneB | Order::Interleaved => None,
            Order::ZeroBubbleV => Some((scheduler, "zero_bubble_v")),
        });
        if matches!(self.order, Order::Interleaved | Order::ZeroBubbleV) {
            all.push(("model.model_config.pp_interleave_num", "2"));
        }
        all.extend(zero(self.zero));
        if self.by_two {
            all.push(BY_TWO);
        }
        all.push(("parallel_config.vocab_emb_dp", if self.vocabulary { "False" } else { "True" }));
        if self.sequence {
            all.push(("parallel_config.use_seq_parallel", "True"));
        }
        if self.recompute {
            all.push(("recompute_config.recompute", "True"));
        }
        if self.swap {
            all.push(("swap_config.swap", "True"));
        }
        if self.swap_optimizer {
            all.push(("optimizer.swap", "True"));
        }
        if self.ring {
            all.push(("model.model_config.use_ring_attention", "True"));
        }
        let number = |n: usize| ["1", "2", "4"][n.ilog2() as usize];
        let algorithm = match self.keys {
            Keys::Gathered => "colossalai_cp",
            Keys::Exchanged => "ulysses_cp",
            Keys::Both => "hybrid_cp",
        };
        all.extend([
            ("parallel_config.expert_parallel", number(self.ep)),
            ("parallel_config.context_parallel", number(self.cp)),
            ("parallel_config.context_parallel_algo", algorithm),
            ("parallel_config.ulysses_degree_in_cp", if self.keys == Keys::Both { "2" } else { "1" }),
        ]);
        all
    }
}

fn draws() -> impl Strategy<Value = Draw> {
    let order = select(vec![Order::Gpipe, Order::OneFOneB, Order::Interleaved, Order::ZeroBubbleV]);
    let sizes = || select(vec![1, 2, 4]);
    let spread = (sizes(), sizes(), select(vec![1, 2]), select(vec![1, 2, 4])).prop_map(|(pp, dp, tp, micro)| Spread {
        pp,
        dp,
        tp,
        micro,
        sequences: SEQUENCES,
    });
    let model = select(vec![Model::Llama, Model::DeepSeek, Model::Further]);
    let context = (sizes(), select(vec![Keys::Gathered, Keys::Exchanged, Keys::Both]), any::<bool>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let on_host = (any::<bool>(), any::<bool>());
    (model, spread, sizes(), context, order, (0..=3_usize, flags), on_host)
        .prop_map(
            |(
                model,
                on,
                ep,
                (cp, keys, ring),
                order,
                (zero, (by_two, vocabulary, sequence, recompute, fused)),
                on_host,
            )| {
                Draw {
                    model,
                    on,
                    ep,
                    cp,
                    keys,
                    ring,
                    order,
                    zero,
                    by_two,
                    vocabulary,
                    sequence,
                    recompute,
                    swap: on_host.0,
                    swap_optimizer: on_host.1,
                    fused,
                }
            },
        )
        .prop_filter("there is no such run", |d| d.exists() && d.on.pp * d.on.dp * d.on.tp * d.cp > 1)
}

/// Runs `cases` draws of `runner`.
fn sweep(mut runner: TestRunner) {
    let alone: RefCell<HashMap<(Model, usize, bool), Vec<Line>>> = RefCell::default();
    let holds = |d: Draw| {
        let mut alone = alone.borrow_mut();
        let serial = alone
            .entry((d.model, d.on.micro, d.fused))
            .or_insert_with(|| Compiled::new(d.on.alone(), d.opt(), &d.model.changes()).train(STEPS, Resume::No));
        let got = Compiled::new(d.on, d.opt(), &d.changes()).train(STEPS, Resume::No);
        agree(&format!("{d:?}"), &got, serial);
        Ok(())
    };
    runner.run(&draws(), holds).unwrap_or_else(|e| panic!("{e}"));
}

fn config(cases: u32) -> Config {
    // A run takes long, and its neighbours say no more than it does.
    Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() }
}

#[test]
fn drawn_meshes_follow_one_device() {
    let algorithm = proptest::test_runner::RngAlgorithm::ChaCha;
    let rng = proptest::test_runner::TestRng::deterministic_rng(algorithm);
    sweep(TestRunner::new_with_rng(config(10), rng));
}

/// Others every time; `make test-parity` runs it.
#[test]
#[ignore = "takes as long as it is given; `make test-parity` runs it"]
fn many_drawn_meshes_follow_one_device() {
    sweep(TestRunner::new(config(100)));
}
