//! A plan made by hand: embedding, two matrix products, cross-entropy, their gradients and AdamW, all as reference ops.

use crate::source::{Batch, BatchSource};
use athanor_ir::func::{Func, FuncResult, Init, Role, ValueId};
use athanor_ir::lr::{LrSchedule, Shape};
use athanor_ir::optimizer::{AdamWSpec, OptimizerSpec};
use athanor_ir::plan::{Action, Buffer, BufferRole, Plan, Program, Stage, Step, Target, VERSION};
use athanor_ir::run::{LossScale, RunSpec};
use athanor_ir::target::CpuLevel;
use athanor_ir::{Binary, Builder, DType, F64, Loc, Memory, Mesh, Op, ReduceKind, Result, Sharding, TensorType, Unary};
use std::collections::HashMap;

/// Batch, sequence, vocabulary, embedding and hidden sizes.
pub const B: usize = 2;
pub const S: usize = 4;
pub const V: usize = 11;
pub const H: usize = 6;
pub const F: usize = 8;

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct Toy {
    pub accumulation: usize,
    pub per_token_loss: bool,
    pub lr: f64,
    pub steps: u64,
    pub batch: usize,
    pub loss_scale: Option<LossScale>,
}

impl Default for Toy {
    fn default() -> Self {
        Self { accumulation: 1, per_token_loss: false, lr: 0.02, steps: 10, batch: B, loss_scale: None }
    }
}

/// Names and dims of the weights.
pub const WEIGHTS: [(&str, &[usize]); 3] =
    [("embed.weight", &[V, H]), ("up.weight", &[F, H]), ("head.weight", &[V, F])];

fn f32s(dims: &[usize]) -> TensorType {
    TensorType::new(DType::F32, dims)
}

fn result(f: &mut Func, name: String, value: ValueId) {
    f.results.push(FuncResult { name, value });
}

fn weight() -> Role {
    Role::Weight { init: Init::Normal { std: 0.3 }, decay: true }
}

fn param(f: &mut Func, name: &str, ty: TensorType, role: Role) -> ValueId {
    f.param(name.to_owned(), ty, role, Loc::default())
}

fn micro(toy: &Toy) -> Func {
    let mut f = Func::new("micro");
    let b = toy.batch;
    let ids = TensorType::new(DType::I32, [b, S]);
    let tokens = param(&mut f, "tokens", ids.clone(), Role::Input);
    let labels = param(&mut f, "labels", ids, Role::Input);
    let mask = param(&mut f, "loss_mask", f32s(&[b, S]), Role::Input);
    let w: Vec<ValueId> = WEIGHTS.iter().map(|(n, d)| param(&mut f, n, f32s(d), weight())).collect();
    let before: Vec<ValueId> = WEIGHTS
        .iter()
        .filter(|_| toy.accumulation > 1)
        .map(|(n, d)| param(&mut f, &format!("grad.{n}"), f32s(d), Role::Grad))
        .collect();
    let scale = toy.loss_scale.map(|_| param(&mut f, "loss_scale", f32s(&[]), Role::Input));
    let mut x = Builder::new(&mut f, Loc { block: "toy".into(), ..Loc::default() });
    let e = x.many(Op::Embed, &[tokens, w[0]])[0];
    let u = x.einsum("bsh,fh->bsf", e, w[1]);
    let a = x.unary(Unary::Silu, u);
    let logits = x.einsum("bsf,vf->bsv", a, w[2]);
    let ce = x.many(Op::CrossEntropy, &[logits, labels]);
    let masked = x.mul(ce[0], mask);
    let sum = x.reduce(ReduceKind::Sum, masked, &[0, 1]);
    let count = x.reduce(ReduceKind::Sum, mask, &[0, 1]);
    let loss = x.binary(Binary::Div, sum, count);
    // Gradient of the masked loss, divided by the tokens unless the optimizer does it.
    let share = if toy.per_token_loss {
        mask
    } else {
        let c = x.broadcast(count, &[], &[b, S]);
        let parts = x.constant(toy.accumulation as f64, f32s(&[b, S]));
        let c = x.mul(c, parts);
        x.binary(Binary::Div, mask, c)
    };
    let share = match scale {
        Some(scale) => {
            let scale = x.broadcast(scale, &[], &[b, S]);
            x.mul(share, scale)
        }
        None => share,
    };
    let dlogits = x.many(Op::CrossEntropyGrad, &[logits, labels, ce[1], share])[0];
    let dhead = x.einsum("bsv,bsf->vf", dlogits, a);
    let da = x.einsum("bsv,vf->bsf", dlogits, w[2]);
    let slope = x.unary(Unary::SiluGrad, u);
    let du = x.mul(da, slope);
    let dup = x.einsum("bsf,bsh->fh", du, e);
    let de = x.einsum("bsf,fh->bsh", du, w[1]);
    let dembed = x.many(Op::EmbedGrad { vocab: V }, &[tokens, de])[0];
    let mut grads = vec![dembed, dup, dhead];
    if !before.is_empty() {
        grads = grads.iter().zip(&before).map(|(g, b)| x.add(*b, *g)).collect();
    }
    if toy.per_token_loss {
        result(&mut f, "loss_sum".into(), sum);
        result(&mut f, "token_count".into(), count);
    } else {
        result(&mut f, "loss".into(), loss);
    }
    for ((n, _), g) in WEIGHTS.iter().zip(grads) {
        result(&mut f, format!("grad.{n}"), g);
    }
    f
}

fn update(toy: &Toy) -> Func {
    let mut f = Func::new("update");
    let mut states = vec![];
    for (n, d) in WEIGHTS {
        states.push([
            param(&mut f, n, f32s(d), weight()),
            param(&mut f, &format!("grad.{n}"), f32s(d), Role::Grad),
            param(&mut f, &format!("adam_m.{n}"), f32s(d), Role::Moment),
            param(&mut f, &format!("adam_v.{n}"), f32s(d), Role::Moment),
        ]);
    }
    let scalar = |f: &mut Func, n: &str| param(f, n, f32s(&[]), Role::Input);
    let rates = [scalar(&mut f, "lr"), scalar(&mut f, "step_size"), scalar(&mut f, "v_scale")];
    let tokens = toy.per_token_loss.then(|| scalar(&mut f, "token_count"));
    let divisor = toy.loss_scale.map(|_| scalar(&mut f, "loss_scale")).or(tokens);
    let mut x = Builder::new(&mut f, Loc::default());
    let grads: Vec<ValueId> = states.iter().map(|s| s[1]).collect();
    let (norm, scale) = norm(&mut x, &grads, divisor);
    let op = Op::AdamW { beta1: F64(0.9), beta2: F64(0.95), eps: F64(1e-8), decay: F64(0.1) };
    let mut new = vec![];
    for [p, g, m, v] in states {
        new.push(x.many(op.clone(), &[p, g, m, v, rates[0], rates[1], rates[2], scale]));
    }
    for ((n, _), values) in WEIGHTS.iter().zip(new) {
        for (prefix, v) in ["", "adam_m.", "adam_v."].iter().zip(values) {
            result(&mut f, format!("{prefix}{n}"), v);
        }
    }
    if toy.loss_scale.is_none() {
        result(&mut f, "grad_norm".into(), norm);
    }
    f
}

/// Norm of the gradients and the factor on each.
fn norm(x: &mut Builder<'_>, grads: &[ValueId], divisor: Option<ValueId>) -> (ValueId, ValueId) {
    let squares = x.many(Op::SumSquares, grads)[0];
    let norm = x.unary(Unary::Sqrt, squares);
    let norm = x.cast(norm, DType::F32);
    let scale = match divisor {
        Some(d) => x.unary(Unary::Recip, d),
        None => x.constant(1.0, f32s(&[])),
    };
    (x.mul(norm, scale), scale)
}

/// The norm of scaled gradients, on its own.
fn grad_norm() -> Func {
    let mut f = Func::new("grad_norm");
    let grads: Vec<ValueId> =
        WEIGHTS.iter().map(|(n, d)| param(&mut f, &format!("grad.{n}"), f32s(d), Role::Grad)).collect();
    let scale = param(&mut f, "loss_scale", f32s(&[]), Role::Input);
    let (norm, _) = norm(&mut Builder::new(&mut f, Loc::default()), &grads, Some(scale));
    result(&mut f, "grad_norm".into(), norm);
    f
}

/// Appends the program of `f`: states in their buffers, every other value in a buffer of its own.
fn lower(f: &Func, stage: &mut Stage, names: &mut HashMap<String, usize>) {
    let place = |stage: &mut Stage, name: String, ty: &TensorType, role: BufferRole, live| {
        let bytes = ty.bytes();
        let (offset, dims) = (stage.arena_bytes, ty.dims.clone());
        stage.arena_bytes += bytes.div_ceil(64) * 64;
        stage.buffers.push(Buffer {
            name,
            dtype: ty.dtype,
            dims,
            memory: Memory::Device,
            offset,
            bytes,
            role,
            sharding: Sharding::default(),
            live,
        });
        stage.buffers.len() - 1
    };
    let mut of: HashMap<ValueId, usize> = HashMap::new();
    for p in &f.params {
        let role = BufferRole::from(&p.role);
        let i = match names.get(&p.name) {
            Some(i) => *i,
            None => place(stage, p.name.clone(), f.ty(p.value), role, None),
        };
        names.insert(p.name.clone(), i);
        of.insert(p.value, i);
    }
    for r in &f.results {
        if r.name.starts_with("grad.") && !names.contains_key(&r.name) {
            names.insert(r.name.clone(), place(stage, r.name.clone(), f.ty(r.value), BufferRole::Grad, None));
        }
        if let Some(i) = names.get(&r.name) {
            of.insert(r.value, *i);
        }
    }
    let end = f.nodes.len();
    let mut steps = vec![];
    for (k, node) in f.nodes.iter().enumerate() {
        for o in &node.outputs {
            if !of.contains_key(o) {
                let name = format!("{}.{}", f.name, o.0);
                of.insert(*o, place(stage, name, f.ty(*o), BufferRole::Activation, Some((k, end))));
            }
        }
        let list = |vs: &[ValueId]| vs.iter().map(|v| of[v]).collect();
        let (inputs, outputs) = (list(&node.inputs), list(&node.outputs));
        steps.push(Step::new(Action::Op(node.op.clone()), inputs, outputs, node.loc.clone()));
    }
    let results = f.results.iter().map(|r| (r.name.clone(), of[&r.value])).collect();
    stage.programs.push(Program { name: f.name.clone(), steps, results });
}

/// The run of a toy.
pub fn run(toy: &Toy) -> RunSpec {
    RunSpec {
        seed: 5,
        steps: toy.steps,
        batch_size: toy.batch,
        accumulation: toy.accumulation,
        seq_length: S,
        vocab_size: V,
        optimizer: OptimizerSpec::AdamW(AdamWSpec { weight_decay: 0.1, ..AdamWSpec::default() }),
        per_token_loss: toy.per_token_loss,
        lr: LrSchedule { learning_rate: toy.lr, warmup_steps: 2, warmup_lr_init: 0.0, shape: Shape::Constant },
        loss_scale: toy.loss_scale,
        flops_per_sequence: 1e6,
        keep_checkpoint_max: 2,
        checkpoint_prefix: "toy".into(),
        hf_config: serde_json::json!({"model_type": "toy"}),
        ..RunSpec::for_tests()
    }
}

/// The plan of a toy.
pub fn plan(toy: &Toy) -> Plan {
    let mut stage = Stage { arena_bytes: 0, host_bytes: 0, buffers: vec![], programs: vec![], pipeline: None };
    let mut names = HashMap::new();
    lower(&micro(toy), &mut stage, &mut names);
    if toy.loss_scale.is_some() {
        lower(&grad_norm(), &mut stage, &mut names);
    }
    lower(&update(toy), &mut stage, &mut names);
    Plan {
        version: VERSION,
        config_hash: "0".repeat(64),
        compiler: "by hand".into(),
        model: "toy".into(),
        target: Target { device: "cpu".into(), cpu: CpuLevel::Portable, threads: 2 },
        mesh: Mesh::default(),
        stages: vec![stage],
        kernels: vec![],
        run: run(toy),
    }
}

/// Sequences where each token follows from the one before, with a few positions masked.
pub struct Counting {
    pub batch: usize,
    pub accumulation: usize,
}

impl BatchSource for Counting {
    fn next(&mut self, step: u64, micro: usize) -> Result<Batch> {
        let n = self.batch * S;
        let start = (step as usize * self.accumulation + micro) * self.batch;
        let token = |i: usize| ((start + i / S) * 3 + (i % S) * 2) % V;
        Ok(Batch {
            step,
            micro_batch: micro,
            epoch: 0,
            consumed_samples: (step + 1) * (self.batch * self.accumulation) as u64,
            tokens: (0..n).map(|i| token(i) as i32).collect(),
            labels: (0..n).map(|i| ((token(i) + 2) % V) as i32).collect(),
            loss_mask: (0..n).map(|i| if i == n - 1 { 0.0 } else { 1.0 }).collect(),
            ..Batch::default()
        })
    }
}
