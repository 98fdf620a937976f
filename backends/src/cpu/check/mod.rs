//! What must hold before a plan may touch memory: nothing it says can lead outside the arenas.
//!
//! A plan is a file that anyone can edit. Buffers, indices, types, matrix strides and lives are checked here, so that the
//! device can use raw addresses. What cannot be checked is machine code: a generated kernel is trusted to stay within the
//! buffers it was compiled for, which is why every step that runs it must give buffers of the same sizes.

mod again;
mod host;
mod matrix;
mod overlap;
mod slots;
#[cfg(test)]
pub(crate) mod tests;

use athanor_ir::collective::{Collective, CollectiveKind};
use athanor_ir::infer;
use athanor_ir::plan::{Action, Buffer, BufferRole, KernelKind, Plan, Program, Stage, Step};
use athanor_ir::{Code, Diagnostic, Op, Result, TensorType, streams};
use std::collections::HashMap;
use std::ops::Range;

/// The plan contradicts itself.
pub const BAD_PLAN: Code = Code {
    id: "B0201",
    title: "the plan cannot be executed",
    explain: "Before a plan runs, its buffers must lie inside the arena and have the sizes of their types, buffers that live \
              at the same time must not overlap (but for views of one another), steps must name buffers and kernels that \
              exist, and the operands of every step must fit what it does. A plan that the compiler wrote has these \
              properties: this one was changed or damaged. Compile it again.",
};

/// Steps of a program, beyond which a plan is taken for damaged.
const MOST: usize = 1 << 24;

/// Bytes that a buffer occupies of its memory's arena.
pub(super) fn range(b: &Buffer) -> Range<usize> {
    b.offset..b.offset + b.bytes
}

/// Bytes from a buffer to the same one of the next slot; 0 for what lies in none.
pub(super) fn stride(b: &Buffer) -> usize {
    if let BufferRole::Stash { stride, .. } = b.role { stride } else { 0 }
}

/// Bytes from a buffer of a micro-batch's caches to the same one of the next micro-batch; 0 for what is no such buffer.
pub(super) fn cache_stride(b: &Buffer) -> usize {
    if let BufferRole::Cache { stride } = b.role { stride } else { 0 }
}

/// Whether two ranges share a byte.
pub(super) fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Type of a buffer's contents.
pub(super) fn tensor_type(b: &Buffer) -> TensorType {
    TensorType::new(b.dtype, b.dims.clone())
}

fn bad(message: String) -> Diagnostic {
    Diagnostic::error(&BAD_PLAN, message).help("compile the plan again; see `athanor explain B0201`")
}

/// Checks everything that executing stage `stage` of `plan` relies on.
///
/// # Errors
/// [`BAD_PLAN`], naming the buffer or step and the rule it breaks.
pub fn check(plan: &Plan, stage: usize) -> Result<()> {
    let count = plan.stages.len();
    let Some(s) = plan.stages.get(stage) else { return bad(format!("stage {stage} of {count} does not exist")).err() };
    check_stage(plan, s).or_else(|text| bad(format!("stage {stage}: {text}")).err())
}

fn check_stage(plan: &Plan, stage: &Stage) -> std::result::Result<(), String> {
    if stage.buffers.len() > MOST || stage.programs.iter().any(|p| p.steps.len() > MOST) {
        return Err(format!("more than {MOST} buffers or steps"));
    }
    let mut names = HashMap::new();
    for (i, b) in stage.buffers.iter().enumerate() {
        buffer(b, stage.bytes_in(b.memory)).map_err(|e| format!("buffer {i} `{}`: {e}", b.name))?;
        if let Some(j) = names.insert(b.name.as_str(), i) {
            return Err(format!("buffers {j} and {i} have the same name `{}`", b.name));
        }
    }
    let mut signatures = HashMap::new();
    for p in &stage.programs {
        for (i, s) in p.steps.iter().enumerate() {
            step(plan, stage, s, i, &mut signatures)
                .map_err(|e| format!("program `{}`, step {i}{}: {e}", p.name, place(s)))?;
        }
        again::check(stage, p).map_err(|e| format!("program `{}`, {e}", p.name))?;
        results(stage, p).map_err(|e| format!("program `{}`: {e}", p.name))?;
        streams::check(&stage.buffers, p)?;
    }
    slots::check(stage)?;
    overlap::check(stage)
}

fn place(step: &Step) -> String {
    let l = &step.loc;
    let block = if l.block.is_empty() { String::new() } else { format!(" ({})", l.block) };
    if l.line == 0 { block } else { format!("{block} ({}:{}:{})", l.file, l.line, l.col) }
}

fn buffer(b: &Buffer, arena: usize) -> std::result::Result<(), String> {
    let size = b.dims.iter().try_fold(b.dtype.bytes(), |n, d| n.checked_mul(*d));
    match size {
        Some(0) => return Err("has no elements".into()),
        Some(n) if n == b.bytes => {}
        _ => return Err(format!("{} bytes do not hold {:?} of {}", b.bytes, b.dims, b.dtype)),
    }
    if b.offset.checked_add(b.bytes).is_none_or(|end| end > arena) {
        return Err(format!("{} bytes at offset {} lie outside the arena of {arena} bytes", b.bytes, b.offset));
    }
    if !b.offset.is_multiple_of(b.dtype.bytes()) {
        return Err(format!("offset {} is not aligned for {}", b.offset, b.dtype));
    }
    match b.live {
        Some((first, last)) if first > last => Err(format!("lives from step {first} to step {last}")),
        Some(_) if !within_programs(&b.role) => Err("is kept between programs, but has a life within one".into()),
        _ => Ok(()),
    }
}

/// Whether a buffer of this role is a value of one micro-batch or less.
fn within_programs(role: &BufferRole) -> bool {
    matches!(role, BufferRole::Activation | BufferRole::Scratch | BufferRole::Stash { .. })
}

/// Bytes of the buffers that steps of a kernel must give it, and the first step that did.
type Signatures = HashMap<usize, Vec<usize>>;

fn step(
    plan: &Plan,
    stage: &Stage,
    s: &Step,
    at: usize,
    signatures: &mut Signatures,
) -> std::result::Result<(), String> {
    let of = |list: &[usize]| {
        list.iter()
            .map(|i| stage.buffers.get(*i).ok_or_else(|| format!("buffer {i} does not exist")))
            .collect::<std::result::Result<Vec<&Buffer>, String>>()
    };
    let (ins, outs) = (of(&s.inputs)?, of(&s.outputs)?);
    for b in ins.iter().chain(&outs) {
        if let Some((first, last)) = b.live
            && stride(b) == 0
            && !(first..=last).contains(&at)
        {
            return Err(format!("buffer `{}` lives from step {first} to step {last} only", b.name));
        }
    }
    for (k, b) in outs.iter().enumerate() {
        if let Some(other) = outs[..k].iter().find(|o| o.shares(b)) {
            return Err(format!("writes `{}` and `{}`, which overlap", other.name, b.name));
        }
    }
    host::reached(&s.action, &ins, &outs)?;
    match &s.action {
        // Looked at with the steps that it goes back over.
        Action::Again { .. } => Ok(()),
        Action::Op(Op::Call { callee } | Op::Repeat { callee }) => {
            Err(format!("calls @{callee}; a plan has no functions"))
        }
        Action::Op(Op::Collective(c)) => {
            collective(c, &ins, &outs).map_err(|e| format!("nn.{} over {}: {e}", c.name(), c.axes))
        }
        Action::Op(op) => {
            let types = |list: &[&Buffer]| list.iter().map(|b| tensor_type(b)).collect::<Vec<_>>();
            infer::check(op, &types(&ins), &types(&outs)).map_err(|e| format!("nn.{}: {e}", op.name()))
        }
        Action::Kernel(k) => kernel(plan, *k, &ins, &outs, signatures),
    }
}

/// A result takes its operand's place or none of it. What goes to another rank while something else comes in its stead does not.
fn collective(c: &Collective, ins: &[&Buffer], outs: &[&Buffer]) -> std::result::Result<(), String> {
    let types = |list: &[&Buffer]| list.iter().map(|b| tensor_type(b)).collect::<Vec<_>>();
    infer::check(&Op::Collective(c.clone()), &types(ins), &types(outs)).map_err(|e| e.to_string())?;
    let (from, to) = (ins[0], outs[0]);
    if from.shares(to) && (range(from) != range(to) || c.kind == CollectiveKind::Shift) {
        return Err(format!("`{}` and `{}` overlap", from.name, to.name));
    }
    let apart = match c.kind {
        // Copied run by run.
        CollectiveKind::OwnPart { .. } => None,
        CollectiveKind::AllToAll { cut, join } if cut != join => Some(join),
        _ => c.moved().find(|dim| from.dims[..*dim].iter().any(|d| *d != 1)),
    };
    match apart {
        Some(dim) => Err(format!("the parts of dim {dim} of {:?} do not lie side by side", from.dims)),
        None => Ok(()),
    }
}

fn kernel(
    plan: &Plan,
    index: usize,
    ins: &[&Buffer],
    outs: &[&Buffer],
    signatures: &mut Signatures,
) -> std::result::Result<(), String> {
    let kernel = plan.kernels.get(index).ok_or_else(|| format!("kernel {index} does not exist"))?;
    let named = |e: String| format!("kernel {index} `{}`: {e}", kernel.name);
    match &kernel.kind {
        KernelKind::Generated { symbol, grid } => {
            generated(symbol, *grid).map_err(named)?;
            same_buffers(index, ins, outs, signatures).map_err(named)
        }
        KernelKind::Gemm { spec, fallback } => {
            let ([a, b], [c, ..]) = (ins, outs) else { return Err(named("wants buffers a, b and c".into())) };
            matrix::check(spec, a, b, c).map_err(named)?;
            let Some(other) = fallback else { return Ok(()) };
            match plan.kernels.get(*other).map(|k| &k.kind) {
                Some(KernelKind::Generated { symbol, grid }) => {
                    generated(symbol, *grid).map_err(named)?;
                    same_buffers(*other, ins, outs, signatures).map_err(named)
                }
                Some(KernelKind::Gemm { .. }) => Err(named(format!("its fallback {other} is not a generated kernel"))),
                None => Err(named(format!("its fallback {other} does not exist"))),
            }
        }
    }
}

fn generated(symbol: &str, grid: usize) -> std::result::Result<(), String> {
    if symbol.is_empty() || symbol.contains('\0') {
        return Err(format!("{symbol:?} is no symbol"));
    }
    if i64::try_from(grid).is_err() || grid == 0 { Err(format!("a grid of {grid} items")) } else { Ok(()) }
}

fn same_buffers(
    index: usize,
    ins: &[&Buffer],
    outs: &[&Buffer],
    signatures: &mut Signatures,
) -> std::result::Result<(), String> {
    let bytes: Vec<usize> = ins.iter().chain(outs).map(|b| b.bytes).collect();
    let first = signatures.entry(index).or_insert_with(|| bytes.clone());
    if *first == bytes {
        Ok(())
    } else {
        Err(format!("is given buffers of {bytes:?} bytes here and {first:?} elsewhere"))
    }
}

fn results(stage: &Stage, p: &Program) -> std::result::Result<(), String> {
    p.results.iter().try_for_each(|(name, b)| {
        if *b < stage.buffers.len() { Ok(()) } else { Err(format!("result `{name}`: buffer {b} does not exist")) }
    })
}
