//! The micro-batches of a pipeline's stage: programs, and messages between ranks of neighbouring stages.

use crate::executor::{Inputs, counted, loss_name, not_trainable};
use crate::parts::{Gather, loads_of, losses_of};
use crate::source::{Batch, BatchSource};
use athanor_backends::comm::{Communicator, Engine, Place};
use athanor_backends::cpu::device::{At, CpuDevice};
use athanor_ir::op::ReduceKind;
use athanor_ir::pipeline::{Act, FIRST, Part, Pipeline, Task};
use athanor_ir::plan::{Buffer, Plan, StagePipeline};
use athanor_ir::recompute::number_of_layer;
use athanor_ir::{DType, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// One stage among those whose ranks have the same other coordinates.
pub(crate) struct Runner {
    /// One rank of each stage, in their order.
    group: Box<dyn Communicator>,
    acts: Arc<[Act]>,
    pipeline: Pipeline,
    stage: StagePipeline,
    /// Tokens of a slice.
    tokens: usize,
    /// Losses that any stage knows of, by name.
    losses: Vec<String>,
    /// Layer of each count of experts' tokens, by stage.
    layers: Vec<Vec<usize>>,
    loss: &'static str,
    micro_batches: usize,
    batches: HashMap<usize, Batch>,
    /// Place in `acts` of the last run of each micro-batch.
    last: Vec<usize>,
    /// Whether each program reads what a batch fills, as far as it is known.
    reads: HashMap<String, bool>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("stage", &self.group.rank())
            .field("acts", &self.acts.len())
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// The stage `stage` of `plan`, as the rank of `engine`. All ranks call it.
    ///
    /// # Errors
    /// What the engine reports.
    pub(crate) fn new(engine: &dyn Engine, plan: &Plan, stage: usize) -> Result<Self> {
        let group = engine.group(&plan.mesh.group(&["pp"], engine.rank()))?;
        let (Some(pipeline), Some(stage)) = (&plan.run.pipeline, &plan.stages[stage].pipeline) else {
            return not_trainable("the plan has stages and no pipeline".into());
        };
        let (pipeline, stage) = (pipeline.clone(), stage.clone());
        let acts: Arc<[Act]> = stage.acts.as_slice().into();
        let tokens = plan.run.seq_length / pipeline.slices.max(1);
        let (losses, loss) = (losses_of(plan), loss_name(&plan.run));
        let of_stage = |s| loads_of(s).iter().map(|(name, _)| number_of_layer(name).unwrap_or(usize::MAX)).collect();
        let layers = plan.stages.iter().map(of_stage).collect();
        let (batches, reads, micro_batches) = (HashMap::new(), HashMap::new(), plan.run.accumulation);
        let mut last = vec![0; micro_batches];
        for (i, act) in acts.iter().enumerate() {
            if let Act::Run { task, .. } = act
                && let Some(last) = last.get_mut(pipeline.unit(*task).0)
            {
                *last = i;
            }
        }
        Ok(Self { group, acts, pipeline, stage, tokens, losses, layers, loss, micro_batches, batches, last, reads })
    }

    /// Runs the micro-batches of a step: the sum of their losses and the tokens that count, known to all stages.
    ///
    /// # Errors
    /// What the source, programs and messages report.
    pub(crate) fn run(
        &mut self,
        device: &mut CpuDevice,
        inputs: &Inputs,
        gather: &mut Gather,
        step: u64,
        source: &mut dyn BatchSource,
    ) -> Result<(f64, f64)> {
        self.batches.clear();
        let (mut sum, mut tokens) = (0.0, 0.0);
        for (i, act) in Arc::clone(&self.acts).iter().enumerate() {
            match *act {
                Act::Run { task, slot } => {
                    let program = task.part.program(task.chunk);
                    let (micro, slice) = self.pipeline.unit(task);
                    let reads = self.reads.get(&program).copied().unwrap_or_else(|| reads(device, inputs, &program));
                    self.reads.insert(program.clone(), reads);
                    if reads {
                        inputs.feed(device, self.batch(step, micro, source)?)?;
                    }
                    if let Some(first) = device.buffer(FIRST) {
                        let at = -((slice * self.tokens) as i32);
                        device.bytes_mut(first).copy_from_slice(&at.to_ne_bytes());
                    }
                    device.run_at(&program, At { slot, cache: self.stage.cache(micro) })?;
                    gather.add(device, (&program, slot), self.micro_batches);
                    if let Some(loss) = device.scalar_in_slot(&program, self.loss, slot) {
                        sum += loss;
                        // Tokens are those of the whole sequence, whatever slice it is.
                        if slice == 0 {
                            tokens += match device.scalar_in_slot(&program, "token_count", slot) {
                                Some(count) => count,
                                None => counted(self.batch(step, micro, source)?),
                            };
                        }
                    }
                    if self.last.get(micro) == Some(&i) {
                        self.batches.remove(&micro);
                    }
                }
                Act::Pass { task, slot, chunk, to } => {
                    let pairs = self.left(task).iter().zip(self.wanted(task, chunk));
                    pairs.for_each(|(from, into)| device.copy_in_slots((*from, slot), (*into, to)));
                }
                Act::Send { to, task, slot } => {
                    self.enter(task);
                    let values: Vec<(usize, &[u8])> =
                        self.left(task).iter().map(|i| (to, device.bytes_in_slot(*i, slot))).collect();
                    self.group.exchange(&values, &mut [])?;
                }
                Act::Receive { from, task, chunk, slot } => {
                    self.enter(task);
                    for i in self.wanted(task, chunk).to_vec() {
                        self.group.receive(from, device.bytes_in_slot_mut(i, slot))?;
                    }
                }
            }
        }
        self.share(gather, sum, tokens)
    }

    /// Batch of micro-batch `micro`; some programs of a micro-batch read it again.
    fn batch(&mut self, step: u64, micro: usize, source: &mut dyn BatchSource) -> Result<&Batch> {
        Ok(match self.batches.entry(micro) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(source.next(step, micro)?),
        })
    }

    /// What is said of ranks that wait in a message with the results of `task`.
    fn enter(&self, task: Task) {
        self.group
            .ledger()
            .enter(Place::Message { micro: self.pipeline.unit(task).0 as u32, back: task.part != Part::F });
    }

    /// Buffers that a task of this stage leaves for another position.
    fn left(&self, task: Task) -> &[usize] {
        let chunk = &self.stage.chunks[task.chunk];
        if task.part == Part::F { &chunk.leaves } else { &chunk.goes_back }
    }

    /// Buffers of chunk `chunk` that the results of a task of another position go to.
    fn wanted(&self, task: Task, chunk: usize) -> &[usize] {
        let chunk = &self.stage.chunks[chunk];
        if task.part == Part::F { &chunk.arrives } else { &chunk.returns }
    }

    /// Adds up what stages know: each loss is known to one of them.
    fn share(&mut self, gather: &mut Gather, sum: f64, tokens: f64) -> Result<(f64, f64)> {
        self.group.ledger().enter(Place::Between);
        let parts = &mut gather.parts_mut().losses;
        let own = self.losses.iter().map(|name| parts.get(name).copied().unwrap_or(0.0));
        let mut all: Vec<f64> = [sum, tokens].into_iter().chain(own).collect();
        self.group.all_reduce(ReduceKind::Sum, DType::F64, bytemuck::cast_slice_mut(&mut all))?;
        parts.extend(self.losses.iter().cloned().zip(all[2..].iter().copied()));
        Ok((all[0], all[1]))
    }

    /// Brings the counts of experts' tokens to the first stage, layer by layer.
    pub(crate) fn share_loads(&mut self, gather: &mut Gather) -> Result<()> {
        let loads = &mut gather.parts_mut().expert_load;
        let width = |list: &[Vec<u64>]| list.iter().map(Vec::len).max().unwrap_or(0) as u64;
        // Layers of each stage, and experts of a layer.
        let mut sizes = vec![0_u64; 2 * self.group.size()];
        self.group.all_gather(
            bytemuck::cast_slice(&[loads.len() as u64, width(loads)]),
            bytemuck::cast_slice_mut(&mut sizes),
        )?;
        if self.group.rank() > 0 {
            return loads.iter().try_for_each(|load| self.group.send(0, bytemuck::cast_slice(load)));
        }
        let mut all: Vec<(usize, Vec<u64>)> = self.layers[0].iter().copied().zip(std::mem::take(loads)).collect();
        for (stage, size) in sizes.chunks(2).enumerate().skip(1) {
            for layer in self.layers[stage].iter().take(size[0] as usize) {
                let mut load = vec![0_u64; size[1] as usize];
                self.group.receive(stage, bytemuck::cast_slice_mut(&mut load))?;
                all.push((*layer, load));
            }
        }
        all.sort_by_key(|(layer, _)| *layer);
        *loads = all.into_iter().map(|(_, load)| load).collect();
        Ok(())
    }
}

/// Whether program `program` reads what a batch fills.
fn reads(device: &CpuDevice, inputs: &Inputs, program: &str) -> bool {
    let steps = device.stage().program(program).map_or(&[][..], |p| &p.steps[..]);
    let buffers = &device.stage().buffers;
    let mut read = steps.iter().flat_map(|s| &s.inputs).map(|i| &buffers[*i]);
    // Steps may read an input under another shape: through a view.
    let holds = |i: usize, b: &Buffer| {
        let input = &buffers[i];
        b.memory == input.memory && (input.offset..input.offset + input.bytes).contains(&b.offset)
    };
    read.any(|b| inputs.of_batch().any(|i| holds(i, b)))
}
