//! From the steps of a plan to work: kernels and groups found, addresses known.

use super::again::Again;
use super::collectives::Meeting;
use super::operands::{Addresses, Operand, strides};
use super::{KERNELS, KernelFn, NO_GROUP, Prepared, Work};
use crate::cpu::check::tensor_type;
use crate::cpu::onednn::OneDnn;
use crate::cpu::profile::Profile;
use athanor_ir::collective::Collective;
use athanor_ir::plan::{Action, Buffer, GemmSpec, Kernel, KernelKind, Plan, Stage, Step};
use athanor_ir::{Diagnostic, Op, Result, TensorType};
use libloading::Library;
use std::ffi::c_void;

/// Turns steps into work.
pub(super) struct Loader<'a> {
    pub(super) plan: &'a Plan,
    pub(super) stage: &'a Stage,
    /// Start of the device's arena: what kernels reach.
    pub(super) base: *mut u8,
    pub(super) library: Option<&'a Library>,
    pub(super) onednn: Option<&'a OneDnn>,
    /// Axes and size of each group.
    pub(super) groups: &'a [(String, usize)],
}

impl Loader<'_> {
    pub(super) fn prepare(&mut self, step: &Step, threads: usize, profile: &mut Profile) -> Result<Prepared> {
        let buffers = |list: &[usize]| list.iter().map(|i| &self.stage.buffers[*i]).collect::<Vec<_>>();
        let (ins, outs) = (buffers(&step.inputs), buffers(&step.outputs));
        let (stream, after) = (step.stream, step.after);
        let prepared = |work, row, flops, bytes| Ok(Prepared { work, stream, after, row, flops, bytes });
        let index = match &step.action {
            Action::Op(op) => {
                let types = |list: &[&Buffer]| list.iter().map(|b| tensor_type(b)).collect::<Vec<_>>();
                let (t_in, t_out) = (types(&ins), types(&outs));
                let operands = |ts: Vec<TensorType>, bs: &[&Buffer]| {
                    ts.into_iter().zip(bs).map(|(ty, b)| Operand::of(ty, b)).collect()
                };
                let operand = |ts: &[TensorType], bs: &[&Buffer]| Operand::of(ts[0].clone(), bs[0]);
                if let Op::Collective(c) = op {
                    let (from, to) = (operand(&t_in, &ins), operand(&t_out, &outs));
                    let row = profile.row(&format!("{} over {}", op.name(), c.axes));
                    let work = Work::Collective(Meeting { op: c.clone(), group: self.group(c)?, from, to });
                    return prepared(work, row, 0, op.bytes(&t_in, &t_out));
                }
                let (flops, bytes) = (op.flops(&t_in, &t_out), op.bytes(&t_in, &t_out));
                if let Op::ToHost | Op::FromHost = op {
                    let row = profile.row(op.name());
                    let work = Work::Copy { from: operand(&t_in, &ins), to: operand(&t_out, &outs) };
                    return prepared(work, row, flops, bytes);
                }
                let row = profile.row(&format!("{} (reference)", op.name()));
                let work = Work::Reference { op: op.clone(), ins: operands(t_in, &ins), outs: operands(t_out, &outs) };
                return prepared(work, row, flops, bytes);
            }
            Action::Again { first } => {
                let [rounds, done] = [ins[0], ins[1]].map(|b| Operand::of(tensor_type(b), b));
                let work = Work::Again(Again { rounds, done, first: *first });
                return prepared(work, profile.row("again"), 0, 0);
            }
            Action::Kernel(i) => *i,
        };
        let kernel = &self.plan.kernels[index];
        // SAFETY: `check` found every buffer inside the arena.
        let address = |b: &&Buffer| unsafe { self.base.add(b.offset) }.cast::<c_void>();
        let strides: Vec<_> = ins.iter().chain(&outs).map(|b| strides(b)).collect();
        let strides = if strides.iter().all(|s| *s == [0, 0]) { vec![] } else { strides };
        let buffers = Addresses { first: ins.iter().chain(&outs).map(address).collect(), strides };
        let (work, how) = match &kernel.kind {
            KernelKind::Generated { symbol, grid } => {
                (Work::Generated { call: self.symbol(kernel, symbol)?, grid: *grid, buffers }, "")
            }
            KernelKind::Gemm { spec, fallback } => self.product(spec, *fallback, buffers, threads)?,
        };
        let row = profile.row(&format!("{}{how}", kernel.name));
        prepared(work, row, kernel.flops, kernel.bytes)
    }

    /// The group of a collective operation.
    fn group(&self, c: &Collective) -> Result<usize> {
        let found = self.groups.iter().position(|(axes, size)| *axes == c.axes && *size == c.ranks);
        found.map_or_else(
            || {
                let text = format!("{} over {} is an operation of {} ranks", c.name(), c.axes, c.ranks);
                Diagnostic::error(&NO_GROUP, text).help("run the plan with `athanor train PLAN`").err()
            },
            Ok,
        )
    }

    /// How a product is carried out: by the library, else by the generated kernel, else plainly.
    fn product(
        &self,
        spec: &GemmSpec,
        fallback: Option<usize>,
        buffers: Addresses,
        threads: usize,
    ) -> Result<(Work, &'static str)> {
        if let Some(library) = self.onednn
            && OneDnn::supports(spec)
            && library.prepare(spec, threads).is_ok()
        {
            return Ok((Work::Library { spec: *spec, buffers }, " (onednn)"));
        }
        let kernel = fallback.map(|i| &self.plan.kernels[i]);
        if let Some(kernel) = kernel
            && let KernelKind::Generated { symbol, grid } = &kernel.kind
        {
            let call = self.symbol(kernel, symbol)?;
            return Ok((Work::Generated { call, grid: *grid, buffers }, " (generated)"));
        }
        Ok((Work::Plain { spec: *spec, buffers }, " (plain)"))
    }

    fn symbol(&self, kernel: &Kernel, symbol: &str) -> Result<KernelFn> {
        // SAFETY: a symbol of this name in a plan's object has the signature of a kernel; the object outlives the steps.
        let found = self.library.and_then(|l| unsafe { l.get::<KernelFn>(symbol.as_bytes()) }.ok().map(|f| *f));
        found.ok_or_else(|| {
            let e = Diagnostic::error(&KERNELS, format!("the kernels lack `{symbol}` (kernel `{}`)", kernel.name));
            Box::new(e.help("kernels.so belongs to another plan: compile this one again"))
        })
    }
}
