//! A program step by step.

use super::beside::{Beside, Progress};
use super::collectives::Company;
use super::copies::copy;
use super::operands::{At, Given, Operand, Place};
use super::{CpuDevice, NO_PROGRAM, STEP_FAILED, Work};
use crate::cpu::check::overlap;
use crate::cpu::gemm;
use crate::cpu::reference::{View, ViewMut, run_op};
use athanor_ir::plan::{Stage, Stream};
use athanor_ir::{Diagnostic, Memory, Op, Result};
use std::sync::Mutex;
use std::time::Instant;

impl CpuDevice {
    /// Runs the steps of program `name` in order, communication that others stand beside on a thread of its own.
    ///
    /// # Errors
    /// [`NO_PROGRAM`], [`STEP_FAILED`], and what a worker or the library reports.
    pub fn run_program(&mut self, name: &str) -> Result<()> {
        self.run_at(name, At::default())
    }

    /// As [`Self::run_program`], on the values of the micro-batch, or its slice, that has the slot and the caches `at`.
    ///
    /// # Errors
    /// As [`Self::run_program`]; [`NO_PROGRAM`] if the stage has no such slot or caches.
    pub fn run_at(&mut self, name: &str, at: At) -> Result<()> {
        let (slots, caches) = self.stage().pipeline.as_ref().map_or((1, 1), |p| (p.slots.max(1), p.caches.max(1)));
        let Some(steps) = self.programs.get(name).filter(|_| at.slot < slots && at.cache < caches) else {
            return Diagnostic::error(&NO_PROGRAM, format!("the plan has no program `{name}`"))
                .help("compile the configuration for training")
                .err();
        };
        let bases = self.arenas.bases();
        let base = bases.of(Memory::Device);
        let stage = &self.plan.stages[self.stage];
        let program = stage.programs.iter().position(|p| p.name == name).unwrap_or_default();
        let company = Company { arena: base, place: (self.stage as u16, program as u16), at };
        let groups = Mutex::new(&mut self.groups);
        let progress = Progress::default();
        let communicate = |i: usize| match &steps[i].work {
            // SAFETY: `check` found the operands inside the arena, and apart unless they are one; nobody else touches them until
            // the step has ended, as `check` found as well.
            Work::Collective(call) => unsafe { company.meet(&groups, i, call) },
            _ => Ok(()),
        };
        std::thread::scope(|scope| {
            let apart = self.overlap && steps.iter().any(|s| s.stream == Stream::Communication);
            let mut beside = apart.then(|| Beside::start(scope, &progress, communicate)).flatten();
            let mut next = 0;
            while let Some(s) = steps.get(next) {
                let i = next;
                next += 1;
                if let (Some(beside), Stream::Compute, Some(after)) = (&beside, s.stream, s.after) {
                    let start = self.profile.is_some().then(Instant::now);
                    beside.wait_for(after)?;
                    if let (Some(start), Some(profile)) = (start, &mut self.profile) {
                        // Only what is waited for counts: the rest was beside other work.
                        profile.add_time(steps[after].row, start.elapsed());
                    }
                }
                let start = self.profile.is_some().then(Instant::now);
                match &s.work {
                    Work::Reference { op, ins, outs } => {
                        // SAFETY: `check` found the operands inside the arena, and results apart from one another.
                        let done = unsafe { reference(base, op, ins, outs, at) };
                        done.or_else(|e| step_failed(stage, name, i, &e))?;
                    }
                    Work::Generated { call, grid, buffers } => {
                        let buffers = buffers.at(at);
                        let buffers = Given(&buffers);
                        let buffers = &buffers;
                        // Shares are those the kernel's scratch and partial sums are made for, whatever the number of threads.
                        self.pool.run_shares(*grid, self.plan.target.threads, &|worker, lo, hi| {
                            // SAFETY: the addresses are those of checked buffers of the sizes that the kernel was compiled
                            // for, and items of its grid are independent.
                            unsafe { call(buffers.as_ptr(), lo as i64, hi as i64, worker as i64) }
                        })?;
                    }
                    Work::Library { spec, buffers } => {
                        let Some(library) = &self.onednn else { continue };
                        let p = buffers.at(at);
                        // SAFETY: `check` found the matrices inside their buffers, and C apart from A and B.
                        unsafe { library.run(&self.pool, spec, p[0], p[1], p[2])? }
                    }
                    Work::Plain { spec, buffers } => {
                        let p = buffers.at(at);
                        // SAFETY: as above, and no two elements of C coincide.
                        unsafe { gemm::run(&self.pool, spec, [p[0], p[1], p[2]])? }
                    }
                    Work::Copy { from, to } => {
                        // SAFETY: `check` found the operands inside the arenas, each in its own.
                        unsafe { copy(&self.pool, bases, &from.at(at), &to.at(at))? }
                    }
                    Work::Again(again) => {
                        // SAFETY: `check` found both inside the arena, i32s that are apart.
                        if unsafe { again.once_more(base, at) } {
                            next = again.first;
                            if let Some(beside) = &beside {
                                beside.back_to(next);
                            }
                        }
                    }
                    Work::Collective(_) => match &mut beside {
                        Some(beside) if s.stream == Stream::Communication => beside.give(i),
                        // In the order of the program it is right as well.
                        _ => communicate(i)?,
                    },
                }
                if let (Some(start), Some(profile)) = (start, &mut self.profile) {
                    profile.add(s.row, start.elapsed(), s.flops, s.bytes);
                }
            }
            beside.map_or(Ok(()), Beside::end)
        })
    }
}

fn step_failed<T>(stage: &Stage, program: &str, index: usize, text: &str) -> Result<T> {
    let loc = stage.program(program).and_then(|p| p.steps.get(index)).map(|s| &s.loc);
    let block = loc.map(|l| &*l.block).filter(|b| !b.is_empty()).map_or(String::new(), |b| format!(" ({b})"));
    let line = loc.filter(|l| l.line > 0).map_or(String::new(), |l| format!(" from {}:{}:{}", l.file, l.line, l.col));
    Diagnostic::error(&STEP_FAILED, format!("program `{program}`, step {index}{block}{line}: {text}"))
        .help("token ids and labels must be below the model's vocab_size")
        .err()
}

/// Runs one op by the reference implementation.
///
/// # Safety
/// All ranges lie inside the arena at `base`, those of `outs` are disjoint, and nobody else uses the arena meanwhile.
unsafe fn reference(
    base: *mut u8,
    op: &Op,
    ins: &[Operand],
    outs: &[Operand],
    at: At,
) -> std::result::Result<(), String> {
    let ins: Vec<Place<'_>> = ins.iter().map(|o| o.at(at)).collect();
    let outs: Vec<Place<'_>> = outs.iter().map(|o| o.at(at)).collect();
    // SAFETY: inside the arena, and not written while borrowed: operands that results overlap are copied first.
    let bytes = |o: &Place<'_>| unsafe { std::slice::from_raw_parts(base.add(o.range.start), o.range.len()) };
    let shared = |o: &Place<'_>| outs.iter().any(|r| overlap(&r.range, &o.range));
    let copies: Vec<Option<Vec<u8>>> = ins.iter().map(|o| shared(o).then(|| bytes(o).to_vec())).collect();
    let views: Vec<View<'_>> = ins
        .iter()
        .zip(&copies)
        .map(|(o, copy)| View { ty: o.ty, bytes: copy.as_deref().unwrap_or_else(|| bytes(o)) })
        .collect();
    let mut results: Vec<ViewMut<'_>> = outs
        .iter()
        .map(|o| ViewMut {
            ty: o.ty,
            // SAFETY: inside the arena, apart from other results and from every borrowed operand.
            bytes: unsafe { std::slice::from_raw_parts_mut(base.add(o.range.start), o.range.len()) },
        })
        .collect();
    run_op(op, &views, &mut results)
}
