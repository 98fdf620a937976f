//! This rank among the ranks of a run: what they decide together, and how values that are spread over them come together.

use athanor_backends::comm::{Communicator, Engine, Place};
use athanor_backends::cpu::device::{CpuDevice, Groups};
use athanor_ir::op::ReduceKind;
use athanor_ir::plan::{Action, Buffer, Plan};
use athanor_ir::{DType, Mesh, Op, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// One rank of a run.
#[derive(Default)]
pub struct Team {
    rank: usize,
    mesh: Mesh,
    /// All ranks; `None` if there is one.
    world: Option<Box<dyn Communicator>>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("rank", &self.rank).field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

/// Whole contents of buffers that the rank that leads has a part of or nothing, by stage and index.
#[derive(Debug, Default)]
pub struct Gathered(HashMap<(usize, usize), Vec<u8>>);

impl Gathered {
    /// Bytes of buffer `index` of stage `stage`, if it was gathered.
    pub fn bytes(&self, stage: usize, index: usize) -> Option<&[u8]> {
        self.0.get(&(stage, index)).map(Vec::as_slice)
    }
}

impl Team {
    /// The rank that `engine` stands for among those of `plan`'s mesh, with its groups for the collective operations of the
    /// plan. All ranks call it.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn of(engine: &dyn Engine, plan: &Arc<Plan>) -> Result<(Self, Groups)> {
        let (rank, mesh) = (engine.rank(), plan.mesh.clone());
        let all: Vec<usize> = (0..mesh.ranks()).collect();
        let world = engine.group(&all)?;
        let of = Arc::clone(plan);
        world.ledger().describe_by(move |stage, program, step| name(&of, stage, program, step));
        let mut groups: Groups = vec![];
        let steps = plan.stages.iter().flat_map(|s| &s.programs).flat_map(|p| &p.steps);
        for step in steps {
            if let Action::Op(Op::Collective(c)) = &step.action
                && groups.iter().all(|(axes, group)| (axes, group.size()) != (&c.axes, c.ranks))
                && let Some(members) = c.group(&mesh, rank)
            {
                groups.push((c.axes.clone(), engine.group(&members)?));
            }
        }
        Ok((Self { rank, mesh, world: Some(world) }, groups))
    }

    /// Own rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Whether this rank speaks for all: it logs and saves.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// The mesh of all ranks.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Step `step` of the run, counted from 1, begins: what is said about ranks that wait names it.
    pub fn begin(&self, step: u64) {
        if let Some(world) = &self.world {
            world.ledger().begin(step);
        }
    }

    /// Whether `own` is true on any rank.
    ///
    /// # Errors
    /// If another rank has left.
    pub fn any(&mut self, own: bool) -> Result<bool> {
        let Some(world) = &mut self.world else { return Ok(own) };
        world.ledger().enter(Place::Between);
        let mut flag = i32::from(own).to_ne_bytes();
        world.all_reduce(ReduceKind::Max, DType::I32, &mut flag)?;
        Ok(i32::from_ne_bytes(flag) != 0)
    }

    /// Returns when all ranks have come here.
    ///
    /// # Errors
    /// If another rank has left.
    pub fn barrier(&mut self) -> Result<()> {
        self.world.as_mut().map_or(Ok(()), |w| w.barrier())
    }

    /// Brings the buffers that `wanted` accepts whole to the rank that leads: those of which ranks have parts, and those of the
    /// stages that it is not of. All ranks call it; the others get nothing.
    ///
    /// # Errors
    /// If another rank has left.
    pub fn gather(&mut self, device: &CpuDevice, wanted: impl Fn(&Buffer) -> bool) -> Result<Gathered> {
        let mut out = Gathered::default();
        let Some(world) = &mut self.world else { return Ok(out) };
        world.ledger().enter(Place::Save);
        for (s, stage) in device.plan().stages.iter().enumerate() {
            let first = self.mesh.first_at("pp", s);
            let elsewhere = |b: &Buffer| b.sharding.is_cut() || first != 0;
            for (i, b) in stage.buffers.iter().enumerate().filter(|(_, b)| elsewhere(b) && wanted(b)) {
                let axes: Vec<&str> = b.sharding.cutting().collect();
                let members = self.mesh.group(&axes, first);
                if self.rank != 0 {
                    if members.contains(&self.rank) {
                        world.send(0, device.bytes(i))?;
                    }
                    continue;
                }
                let size = b.dtype.bytes();
                let mut whole = vec![0; b.bytes * members.len()];
                let mut part = vec![0; b.bytes];
                for m in members {
                    if m == 0 {
                        part.copy_from_slice(device.bytes(i));
                    } else {
                        world.receive(m, &mut part)?;
                    }
                    for run in b.slice(&self.mesh, m).runs() {
                        let (from, to) = (run.local * size, run.global * size);
                        whole[to..to + run.len * size].copy_from_slice(&part[from..from + run.len * size]);
                    }
                }
                out.0.insert((s, i), whole);
            }
        }
        Ok(out)
    }
}

/// A step of the plan for people: `all_reduce of model.layers.0.mlp (x.yaml:3:5) in micro`.
fn name(plan: &Plan, stage: u16, program: u16, step: u32) -> String {
    let program = plan.stages.get(usize::from(stage)).and_then(|s| s.programs.get(usize::from(program)));
    let Some((program, step)) = program.and_then(|p| Some((p, p.steps.get(step as usize)?))) else {
        return format!("step {step} of a program that this plan does not have");
    };
    let what = match &step.action {
        Action::Op(op) => op.name(),
        Action::Again { .. } => "again",
        Action::Kernel(kernel) => plan.kernels.get(*kernel).map_or("a kernel", |k| &k.name),
    };
    let loc = &step.loc;
    let block = if loc.block.is_empty() { String::new() } else { format!(" of {}", loc.block) };
    let line = if loc.line == 0 { String::new() } else { format!(" ({}:{}:{})", loc.file, loc.line, loc.col) };
    format!("{what}{block}{line} in {}", program.name)
}
