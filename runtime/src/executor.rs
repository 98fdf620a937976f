//! One optimizer step at a time: weights, inputs and scalars in, loss and gradient norm out.

use crate::codes::{BATCH, NOT_FINITE, NOT_TRAINABLE};
use crate::init::{Stream, fill};
use crate::loss_scale::{Scaler, Scaling};
use crate::parts::{Gather, Parts};
use crate::pipeline::Runner;
use crate::source::{Batch, BatchSource};
use crate::team::{Gathered, Team};
use athanor_backends::comm::Engine;
use athanor_backends::cpu::device::{CpuDevice, DeviceOptions};
use athanor_ir::pipeline::FIRST;
use athanor_ir::plan::{Buffer, BufferRole, CPU, Plan};
use athanor_ir::run::RunSpec;
use athanor_ir::sharding::{Sharding, Slice};
use athanor_ir::{DType, Diagnostic, Mesh, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// What one optimizer step gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutput {
    /// Mean over micro-batches, or over the tokens of the step with `per_token_loss`.
    pub loss: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Factor on the loss; 1 without scaling.
    pub loss_scale: f64,
    /// A scaled gradient overflowed: weights and optimizer state are as before.
    pub overflow: bool,
}

/// Inputs that the trainer knows how to give.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    tokens: Option<usize>,
    labels: Option<usize>,
    loss_mask: Option<usize>,
    position_ids: Option<usize>,
    /// Which part of the batch that is read each of them holds: where ranks have parts of sequences not all.
    parts: HashMap<usize, Slice>,
    /// Scalars of the step by name.
    scalars: HashMap<String, usize>,
}

/// A training plan on a device.
#[derive(Debug)]
pub struct Executor {
    device: CpuDevice,
    team: Team,
    inputs: Inputs,
    gather: Gather,
    has_setup: bool,
    scaler: Scaler,
    /// The micro-batches of a pipeline's stage.
    pipeline: Option<Runner>,
}

pub(crate) fn not_trainable<T>(text: String) -> Result<T> {
    Diagnostic::error(&NOT_TRAINABLE, text).help("compile the configuration for training with this version").err()
}

impl Executor {
    /// Puts `plan` on a device, as the rank that `engine` stands for if the plan is for several; weights are zero until
    /// [`Self::initialise`] or a checkpoint fills them.
    ///
    /// # Errors
    /// [`NOT_TRAINABLE`], and what [`CpuDevice::in_groups`] reports.
    pub fn new(plan: Arc<Plan>, options: &DeviceOptions, engine: Option<&dyn Engine>) -> Result<Self> {
        if plan.target.device != CPU {
            return not_trainable(format!("the plan is for device `{}`, not `{CPU}`", plan.target.device));
        }
        if plan.stages.len() != plan.mesh.size("pp") {
            let text = format!("the plan has {} stages, and its mesh {}", plan.stages.len(), plan.mesh.size("pp"));
            return not_trainable(text);
        }
        let (ranks, here) = (plan.mesh.ranks(), engine.map_or(1, Engine::size));
        if ranks != here {
            return not_trainable(format!("the plan is for {ranks} ranks, and there are {here}"));
        }
        let (team, groups) = match engine {
            Some(engine) if ranks > 1 => Team::of(engine, &plan)?,
            _ => (Team::default(), vec![]),
        };
        let own = plan.mesh.position("pp", team.rank());
        let pipeline = match engine {
            Some(engine) if plan.stages[own].pipeline.is_some() => Some(Runner::new(engine, &plan, own)?),
            _ => None,
        };
        let device = CpuDevice::in_groups(plan, own, options, groups)?;
        let stage = device.stage();
        for name in ["micro", "update"].into_iter().filter(|name| *name != "micro" || pipeline.is_none()) {
            if stage.program(name).is_none() {
                return not_trainable(format!("the plan has no program `{name}`"));
            }
        }
        let norm = if device.plan().run.loss_scale.is_some() { "grad_norm" } else { "update" };
        let loss = pipeline.is_none().then_some(("micro", loss_name(&device.plan().run)));
        for (program, result) in loss.into_iter().chain([(norm, "grad_norm")]) {
            if device.scalar(program, result).is_none() {
                return not_trainable(format!("program `{program}` has no scalar result `{result}`"));
            }
        }
        let inputs = find_inputs(&device, team.rank())?;
        let has_setup = stage.program("setup").is_some();
        let gather = Gather::new(&device);
        let scaler = Scaler::new(device.plan().run.loss_scale);
        Ok(Self { device, team, inputs, gather, has_setup, scaler, pipeline })
    }

    /// The ranks of the run, seen from this one.
    pub fn team(&mut self) -> &mut Team {
        &mut self.team
    }

    /// Weights and optimizer state of which ranks have parts, whole on the rank that leads. All ranks call it.
    ///
    /// # Errors
    /// If another rank has left.
    pub fn gather(&mut self) -> Result<Gathered> {
        self.team.gather(&self.device, |b| matches!(b.role, BufferRole::Weight { .. } | BufferRole::Moment))
    }

    /// The device to fill, and the rank that it belongs to.
    pub fn device_of_rank(&mut self) -> (&mut CpuDevice, usize) {
        (&mut self.device, self.team.rank())
    }

    /// Where the loss scale stands.
    pub fn scaling(&self) -> Scaling {
        self.scaler.now()
    }

    /// Takes up the loss scale of an earlier run.
    pub fn resume_scaling(&mut self, from: Scaling) {
        self.scaler.resume(from);
    }

    /// The device, to read and write buffers.
    pub fn device(&self) -> &CpuDevice {
        &self.device
    }

    /// As [`Self::device`], to write.
    pub fn device_mut(&mut self) -> &mut CpuDevice {
        &mut self.device
    }

    /// What the last step said beside its loss.
    pub fn parts(&self) -> &Parts {
        self.gather.parts()
    }

    /// Training run of the plan.
    pub fn run(&self) -> &RunSpec {
        &self.device.plan().run
    }

    /// Draws every weight as its initialiser says, from the run's seed.
    ///
    /// # Errors
    /// Only if a worker fails.
    pub fn initialise(&mut self) -> Result<()> {
        let plan = Arc::clone(self.device.plan());
        for (i, b) in self.device.stage().buffers.clone().iter().enumerate() {
            if let BufferRole::Weight { init } = &b.role {
                let slice = b.slice(&plan.mesh, self.team.rank());
                let (bytes, pool) = self.device.bytes_and_pool(i);
                fill(bytes, b.dtype, init, Stream::new(plan.run.seed, &b.name), &slice, pool)?;
            }
        }
        Ok(())
    }

    /// Computes what is computed once; the weights must be in place.
    ///
    /// # Errors
    /// What the program reports.
    pub fn setup(&mut self) -> Result<()> {
        if self.has_setup { self.device.run_program("setup") } else { Ok(()) }
    }

    /// Runs the optimizer step after `step` finished ones.
    ///
    /// With a loss scale, a step whose loss or gradient is not finite changes nothing but the scale.
    ///
    /// # Errors
    /// [`NOT_FINITE`] naming the step, [`BATCH`], what the source and the programs report.
    pub fn step(&mut self, step: u64, source: &mut dyn BatchSource) -> Result<StepOutput> {
        let plan = Arc::clone(self.device.plan());
        let run = &plan.run;
        self.team.begin(step + 1);
        let scaling = self.scaler.now();
        self.put("loss_scale", scaling.loss_scale);
        self.gather.begin();
        if run.accumulation > 1 {
            self.device.zero_gradients();
        }
        let (sum, tokens) = match &mut self.pipeline {
            None => self.micro_batches(step, source)?,
            Some(stages) => stages.run(&mut self.device, &self.inputs, &mut self.gather, step, source)?,
        };
        self.gather.finish(&self.device);
        if let Some(stages) = &mut self.pipeline {
            stages.share_loads(&mut self.gather)?;
        }
        // The optimizer divides by the same sum: what it adds keeps a step without tokens finite.
        let loss = if run.per_token_loss { sum / (tokens + 1e-8) } else { sum / run.accumulation as f64 };
        if !self.scaler.is_on() {
            finite(step, "loss", loss)?;
        }
        // Steps that were left out have not moved the optimizer: neither its rates nor its corrections.
        let done = step.saturating_sub(scaling.skipped_steps);
        for (name, value) in run.step_scalars(done).into_iter().chain([("token_count".to_owned(), tokens)]) {
            self.put(&name, value);
        }
        let (grad_norm, overflow) = self.apply(step, loss)?;
        Ok(StepOutput { loss, grad_norm, lr: run.lr.at(done), loss_scale: scaling.loss_scale, overflow })
    }

    /// Runs the micro-batches of a step: the sum of their losses, and the tokens that count.
    fn micro_batches(&mut self, step: u64, source: &mut dyn BatchSource) -> Result<(f64, f64)> {
        let plan = Arc::clone(self.device.plan());
        let (mut sum, mut tokens) = (0.0, 0.0);
        for micro in 0..plan.run.accumulation {
            let batch = source.next(step, micro)?;
            self.inputs.feed(&mut self.device, &batch)?;
            self.device.run_program("micro")?;
            sum += self.scalar("micro", loss_name(&plan.run))?;
            tokens += self.device.scalar("micro", "token_count").unwrap_or_else(|| counted(&batch));
            self.gather.add(&self.device, ("micro", 0), plan.run.accumulation);
        }
        Ok((sum, tokens))
    }

    /// Applies the gradients, unless they are scaled and not finite; their norm, and whether they overflowed.
    fn apply(&mut self, step: u64, loss: f64) -> Result<(f64, bool)> {
        if !self.scaler.is_on() {
            self.device.run_program("update")?;
            let norm = self.scalar("update", "grad_norm")?;
            finite(step, "gradient norm", norm)?;
            return Ok((norm, false));
        }
        self.device.run_program("grad_norm")?;
        let norm = self.scalar("grad_norm", "grad_norm")?;
        let overflow = !(loss.is_finite() && norm.is_finite());
        if !overflow {
            self.device.run_program("update")?;
        }
        self.scaler.finish(step, overflow)?;
        Ok((norm, overflow))
    }

    /// Writes the scalar input `name`, if the plan has it.
    fn put(&mut self, name: &str, value: f64) {
        if let Some(index) = self.inputs.scalars.get(name) {
            let dtype = self.device.stage().buffers[*index].dtype;
            crate::init::write(self.device.bytes_mut(*index), dtype, &[value]);
        }
    }

    fn scalar(&self, program: &str, result: &str) -> Result<f64> {
        match self.device.scalar(program, result) {
            Some(x) => Ok(x),
            None => not_trainable(format!("program `{program}` has no scalar result `{result}`")),
        }
    }
}

/// The result of a micro-batch that is trained for.
pub(crate) fn loss_name(run: &RunSpec) -> &'static str {
    if run.per_token_loss { "loss_sum" } else { "loss" }
}

/// Tokens of a batch that count.
pub(crate) fn counted(batch: &Batch) -> f64 {
    batch.loss_mask.iter().map(|m| f64::from(*m)).sum()
}

impl Inputs {
    /// Indices of the inputs that a batch fills.
    pub(crate) fn of_batch(&self) -> impl Iterator<Item = usize> {
        [self.tokens, self.labels, self.loss_mask, self.position_ids].into_iter().flatten()
    }

    /// Copies a batch into the inputs of a program of micro-batches.
    pub(crate) fn feed(&self, device: &mut CpuDevice, batch: &Batch) -> Result<()> {
        let refuse = |text: String| {
            Diagnostic::error(&BATCH, format!("step {}, micro-batch {}: {text}", batch.step + 1, batch.micro_batch))
                .help("compile the configuration again with the batch size and data that it has now")
                .err()
        };
        let columns: [(&str, Option<usize>, &[u8]); 4] = [
            ("tokens", self.tokens, bytemuck::cast_slice(&batch.tokens)),
            ("labels", self.labels, bytemuck::cast_slice(&batch.labels)),
            ("loss_mask", self.loss_mask, bytemuck::cast_slice(&batch.loss_mask)),
            ("position_ids", self.position_ids, bytemuck::cast_slice(&batch.position_ids)),
        ];
        for (name, index, bytes) in columns {
            let Some(index) = index else { continue };
            let part = &self.parts[&index];
            let wanted = part.dims.iter().product::<usize>() * WIDTH;
            if wanted != bytes.len() {
                return refuse(format!("the plan wants {wanted} bytes of {name}, the data has {}", bytes.len()));
            }
            let place = device.bytes_mut(index);
            for run in part.runs() {
                place[run.local * WIDTH..][..run.len * WIDTH]
                    .copy_from_slice(&bytes[run.global * WIDTH..][..run.len * WIDTH]);
            }
        }
        // A stage of a pipeline without labels has no loss.
        if self.labels.is_none() {
            return Ok(());
        }
        if self.loss_mask.is_none() && batch.loss_mask.iter().any(|m| *m != 1.0) {
            return refuse("the data masks positions, and the plan has no loss_mask".into());
        }
        if self.position_ids.is_none() && !batch.position_ids.is_empty() {
            return refuse("the data resets position ids, and the plan has no position_ids".into());
        }
        Ok(())
    }
}

fn finite(step: u64, what: &str, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Diagnostic::error(&NOT_FINITE, format!("step {}: the {what} is {value}", step + 1))
        .help("lower the learning rate, use warm-up, or set max_grad_norm; resume from the last checkpoint")
        .err()
}

/// Bytes of a token, of its label, its position or its weight in the loss.
const WIDTH: usize = 4;

/// The part of what its replica reads that rank `rank` of `mesh` has in `b`.
fn part_of_batch(b: &Buffer, mesh: &Mesh, rank: usize) -> Slice {
    let within = b.sharding.dims.iter().skip(1).cloned();
    let sharding = Sharding { dims: std::iter::once(vec![]).chain(within).collect(), partial: vec![] };
    sharding.slice(mesh, rank, &b.dims)
}

fn find_inputs(device: &CpuDevice, rank: usize) -> Result<Inputs> {
    let run = &device.plan().run;
    let per_batch = run.batch_size.checked_mul(run.seq_length);
    let mut found = Inputs::default();
    let mut scalars: Vec<String> = run.step_scalars(0).into_iter().map(|s| s.0).collect();
    scalars.extend(["token_count".to_owned(), "loss_scale".to_owned()]);
    for (i, b) in device.stage().buffers.iter().enumerate().filter(|(_, b)| b.role == BufferRole::Input) {
        let elements = elements(b);
        let (slot, dtype) = match b.name.as_str() {
            "tokens" => (&mut found.tokens, DType::I32),
            "labels" => (&mut found.labels, DType::I32),
            "loss_mask" => (&mut found.loss_mask, DType::F32),
            "position_ids" => (&mut found.position_ids, DType::I32),
            // Whoever runs a slice says which it is.
            FIRST if b.dtype == DType::I32 && elements == 1 => continue,
            other if scalars.iter().any(|s| s == other) => {
                if elements != 1 || !b.dtype.is_float() {
                    return not_trainable(format!("input `{}` is {} {:?}, not a scalar", b.name, b.dtype, b.dims));
                }
                found.scalars.insert(b.name.clone(), i);
                continue;
            }
            other => return not_trainable(format!("the plan wants input `{other}`, which the trainer does not know")),
        };
        *slot = Some(i);
        let part = part_of_batch(b, &device.plan().mesh, rank);
        if b.dtype != dtype || per_batch != Some(part.dims.iter().product()) || b.bytes != part.elements() * WIDTH {
            return not_trainable(format!(
                "input `{}` is {} {:?}; the run has batches of {} × {} as {dtype}",
                b.name, b.dtype, b.dims, run.batch_size, run.seq_length
            ));
        }
        found.parts.insert(i, part);
    }
    if run.accumulation == 0 {
        return not_trainable("the plan has no micro-batch in a step".into());
    }
    Ok(found)
}

fn elements(b: &Buffer) -> usize {
    b.bytes / b.dtype.bytes()
}

#[cfg(test)]
mod tests;
