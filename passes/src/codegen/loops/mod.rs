//! Fused loops: one kernel for a group of element-wise ops, broadcasts and row reductions over one space of R rows and C
//! columns.
//!
//! The kernel walks its rows; within a row, in *phases*. A phase is one walk over the columns: it sums what the next
//! phase needs per row, and the last phase writes the results. Values are recomputed in each phase rather than stored,
//! since the row is in the cache. Sums over rows (gradients of gains) go to one partial row per worker, which a second
//! kernel adds up in worker order, so that results depend on the number of workers alone.

mod domain;
mod expand;
mod math;

pub use domain::{Class, Domain, domain};
pub use expand::expand;

use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::{LOWEST, Simd};
use athanor_ir::func::{Func, Node, ValueId};
use athanor_ir::op::{Op, ReduceKind};
use athanor_ir::target::CpuLevel;
use athanor_ir::types::TensorType;
use std::collections::{HashMap, HashSet};

/// Kernels of a fused group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loops {
    /// Buffers: parameters, results other than sums over rows, and, if there are such sums, the partial rows.
    pub main: KernelText,
    /// Grid of `main`: the rows.
    pub rows: usize,
    /// Sums over rows: positions in the results, in the order of the parts of the partial buffer.
    pub sums: Vec<usize>,
    /// Bytes of the partial rows of all workers.
    pub partial_bytes: usize,
    /// Adds up the partial rows; buffers: partials, then the results in `sums`. Grid: blocks of columns.
    pub finish: Option<(KernelText, usize)>,
}

/// Columns of one grid item of the finishing kernel.
const FINISH_BLOCK: usize = 256;

struct Loop<'a> {
    func: &'a Func,
    d: &'a Domain,
    defs: Vec<Option<usize>>,
    simd: Simd,
    one: Simd,
    /// Earliest phase in which a value can be computed.
    levels: Vec<usize>,
    params: HashMap<ValueId, Buf>,
    results: Vec<Option<Buf>>,
    partial: Option<Buf>,
    sums: Vec<usize>,
}

/// Generates the kernels of group `func` (composites are expanded here), or `None` when its ops do not share a space.
///
/// `ties[i]` is the parameter in whose buffer result i is computed; `workers` is the largest number of workers.
pub fn generate(func: &Func, ties: &[Option<usize>], workers: usize, level: CpuLevel, symbol: &str) -> Option<Loops> {
    let func = expand(func);
    let d = domain(&func)?;
    let sums = sums_of(&func, &d)?;
    let buf =
        |i: usize, t: &TensorType| Buf { val: Val::Param(i as u32), dims: vec![t.elements()], element: t.dtype.mlir() };
    let mut bufs: Vec<Buf> = func.params.iter().enumerate().map(|(i, p)| buf(i, func.ty(p.value))).collect();
    let params: HashMap<ValueId, Buf> = func.params.iter().zip(&bufs).map(|(p, b)| (p.value, b.clone())).collect();
    let mut results = vec![];
    for (i, r) in func.results.iter().enumerate() {
        if sums.contains(&i) {
            results.push(None);
            continue;
        }
        let own = buf(bufs.len(), func.ty(r.value));
        bufs.push(own.clone());
        results.push(Some(match ties.get(i).copied().flatten() {
            Some(p) => bufs[p].clone(),
            None => own,
        }));
    }
    let slots = workers.min(d.rows).max(1);
    let partial_elements = slots * sums.len() * d.cols;
    let partial = (!sums.is_empty()).then(|| {
        let b = Buf { val: Val::Param(bufs.len() as u32), dims: vec![partial_elements], element: "f32" };
        bufs.push(b.clone());
        b
    });
    let simd = Simd::of(level);
    let l = Loop {
        levels: levels(&func, &d),
        defs: func.defs(),
        func: &func,
        d: &d,
        simd,
        one: Simd { lanes: 1, ..simd },
        params,
        results,
        partial,
        sums: sums.clone(),
    };
    let mut e = Emit::default();
    let refs: Vec<&Buf> = bufs.iter().collect();
    e.func(symbol, false, &refs, &["lo", "hi", "worker"], |e| l.body(e));
    let main = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: bufs.len() };
    let finish = l.partial.is_some().then(|| l.finish(slots, &format!("{symbol}_sum")));
    Some(Loops { main, rows: d.rows, sums, partial_bytes: partial_elements * 4, finish })
}

/// Whether [`generate`] can make a kernel of `func`.
pub fn supported(func: &Func) -> bool {
    let func = expand(func);
    domain(&func).is_some_and(|d| sums_of(&func, &d).is_some())
}

/// Results that are sums over rows, or `None` if the group cannot be one kernel: such a sum is known only when all rows
/// are done, so that the group itself may not read it; and other results have an element per row at least.
fn sums_of(func: &Func, d: &Domain) -> Option<Vec<usize>> {
    // Values that are sums over rows, under casts and reshapes.
    let mut is_sum = vec![false; func.types.len()];
    let mut found = 0;
    for node in &func.nodes {
        let of_sum = node.inputs.iter().any(|v| is_sum[v.0 as usize]);
        match &node.op {
            Op::Reduce { kind, .. } if d.classes[node.outputs[0].0 as usize] == Class::Col => {
                if of_sum || *kind != ReduceKind::Sum {
                    return None;
                }
                found += 1;
                is_sum[node.outputs[0].0 as usize] = true;
            }
            Op::Cast | Op::Reshape => is_sum[node.outputs[0].0 as usize] = of_sum,
            _ if of_sum => return None,
            _ => {}
        }
    }
    let (sums, others): (Vec<usize>, Vec<usize>) =
        (0..func.results.len()).partition(|i| is_sum[func.results[*i].value.0 as usize]);
    let stored = |i: &usize| matches!(d.classes[func.results[*i].value.0 as usize], Class::Full | Class::Row);
    (sums.len() == found && others.iter().all(stored)).then_some(sums)
}

/// The reduction over rows that `v` is, under casts and reshapes.
fn sum_node(func: &Func, v: ValueId) -> Option<&Node> {
    let node = func.nodes.iter().find(|n| n.outputs.contains(&v))?;
    match node.op {
        Op::Cast | Op::Reshape => sum_node(func, node.inputs[0]),
        Op::Reduce { kind: ReduceKind::Sum, ref dims } if dims[0] == 0 => Some(node),
        _ => None,
    }
}

fn levels(func: &Func, d: &Domain) -> Vec<usize> {
    let mut levels = vec![0; func.types.len()];
    for node in &func.nodes {
        let inputs = node.inputs.iter().map(|v| levels[v.0 as usize]).max().unwrap_or(0);
        let to_row = matches!(node.op, Op::Reduce { .. }) && d.classes[node.outputs[0].0 as usize] == Class::Row;
        levels[node.outputs[0].0 as usize] = inputs + usize::from(to_row);
    }
    levels
}

/// Values known while a row is processed.
#[derive(Default)]
struct RowState {
    /// Per row and scalar values, one lane.
    ready: HashMap<ValueId, Val>,
}

impl Loop<'_> {
    fn class(&self, v: ValueId) -> Class {
        self.d.classes[v.0 as usize]
    }

    fn level(&self, v: ValueId) -> usize {
        self.levels[v.0 as usize]
    }

    /// Reductions to a value per row whose operand is complete in `phase`.
    fn reductions(&self, phase: usize) -> Vec<&Node> {
        let wanted = |n: &&Node| {
            matches!(n.op, Op::Reduce { .. })
                && self.class(n.outputs[0]) == Class::Row
                && self.level(n.inputs[0]) == phase
        };
        self.func.nodes.iter().filter(wanted).collect()
    }

    fn body(&self, e: &mut Emit) {
        let (lo, hi, worker) = (Val::Arg("lo"), Val::Arg("hi"), Val::Arg("worker"));
        let zero = e.index(0);
        let partial_base = self.partial.as_ref().map(|partial| {
            let base = e.idx_c("muli", worker, self.sums.len() * self.d.cols);
            let end = e.idx_c("addi", base, self.sums.len() * self.d.cols);
            e.each(base, end, 1, |e, i| {
                let nothing = self.one.splat(e, 0.0);
                self.one.store(e, nothing, partial, &[i]);
            });
            base
        });
        let mut scalars = RowState::default();
        for (i, class) in self.d.classes.iter().enumerate() {
            if *class == Class::Scalar {
                self.row_value(e, ValueId(i as u32), zero, &mut scalars);
            }
        }
        let written: Vec<usize> = (0..self.results.len()).filter(|i| self.results[*i].is_some()).collect();
        let full: Vec<usize> =
            written.iter().copied().filter(|i| self.class(self.func.results[*i].value) == Class::Full).collect();
        let sum_operands: Vec<ValueId> = self
            .sums
            .iter()
            .filter_map(|i| sum_node(self.func, self.func.results[*i].value))
            .map(|n| n.inputs[0])
            .collect();
        let last_reduction = (0..=self.func.nodes.len()).rev().find(|p| !self.reductions(*p).is_empty());
        let written_level = full
            .iter()
            .map(|i| self.func.results[*i].value)
            .chain(sum_operands.iter().copied())
            .map(|v| self.level(v))
            .max();
        let phases = last_reduction.map_or(0, |p| p + 1).max(written_level.map_or(0, |l| l + 1));
        e.each(lo, hi, 1, |e, r| {
            let mut state = RowState { ready: scalars.ready.clone() };
            let base = e.idx_c("muli", r, self.d.cols);
            for phase in 0..phases {
                let reductions = self.reductions(phase);
                let last = Some(phase + 1) == written_level.map(|_| phases);
                let stores: Vec<usize> = if last { full.clone() } else { vec![] };
                let adds: Vec<ValueId> = if last { sum_operands.clone() } else { vec![] };
                self.phase(e, (r, base, partial_base), &reductions, &stores, &adds, &mut state);
            }
            for i in &written {
                let v = self.func.results[*i].value;
                if let (Class::Row, Some(buf)) = (self.class(v), &self.results[*i]) {
                    let x = self.row_value(e, v, r, &mut state);
                    self.one.narrow(e, x, buf, &[r], 1);
                }
            }
        });
    }

    /// One walk over the columns of row `r`.
    fn phase(
        &self,
        e: &mut Emit,
        (r, base, partial): (Val, Val, Option<Val>),
        reductions: &[&Node],
        stores: &[usize],
        adds: &[ValueId],
        state: &mut RowState,
    ) {
        let roots: Vec<ValueId> = reductions
            .iter()
            .map(|n| n.inputs[0])
            .chain(stores.iter().map(|i| self.func.results[*i].value))
            .chain(adds.iter().copied())
            .collect();
        let mut rows_needed = vec![];
        let mut seen = HashSet::new();
        roots.iter().for_each(|v| self.row_operands(*v, &mut rows_needed, &mut seen));
        let mut splats: HashMap<ValueId, (Val, Val)> = HashMap::new();
        for v in rows_needed {
            let one = self.row_value(e, v, r, state);
            let scalar = e.val(format_args!("vector.extract {one}[0] : f32 from vector<1xf32>"));
            let wide = self.simd.broadcast(e, scalar);
            splats.insert(v, (one, wide));
        }
        let step = |unroll: usize| self.simd.lanes * unroll;
        let unroll = match reductions.len() {
            0 => 1,
            _ => [4, 2].into_iter().find(|u| self.d.cols.is_multiple_of(step(*u))).unwrap_or(1),
        };
        let main_end = self.d.cols / step(unroll) * step(unroll);
        let kinds: Vec<ReduceKind> = reductions
            .iter()
            .map(|n| if let Op::Reduce { kind, .. } = n.op { kind } else { ReduceKind::Sum })
            .collect();
        let start = |kind: &ReduceKind| if *kind == ReduceKind::Sum { 0.0 } else { LOWEST };
        let walk = |e: &mut Emit, s: &Simd, unroll: usize, from: usize, to: usize, init: &[Val]| {
            let (from, to) = (e.index(from), e.index(to));
            e.fold((from, to, s.lanes * unroll), init, &s.ty(), |e, c, carried| {
                let mut next = carried.to_vec();
                for u in 0..unroll {
                    let c = e.idx_c("addi", c, u * s.lanes);
                    let at = e.idx("addi", base, c);
                    let mut known: HashMap<ValueId, Val> =
                        splats.iter().map(|(v, x)| (*v, if s.lanes == 1 { x.0 } else { x.1 })).collect();
                    for (k, n) in reductions.iter().enumerate() {
                        let x = self.full(e, s, n.inputs[0], (at, c), &mut known);
                        let slot = &mut next[k * unroll + u];
                        *slot = combine(e, s, kinds[k], *slot, x);
                    }
                    for v in roots.iter().skip(reductions.len()) {
                        self.full(e, s, *v, (at, c), &mut known);
                    }
                    for i in stores {
                        let v = self.func.results[*i].value;
                        if let Some(buf) = &self.results[*i] {
                            s.narrow(e, known[&v], buf, &[at], s.lanes);
                        }
                    }
                    for (k, v) in adds.iter().enumerate() {
                        let (Some(buf), Some(start)) = (&self.partial, partial) else { continue };
                        let at = e.idx_c("addi", start, k * self.d.cols);
                        let at = e.idx("addi", at, c);
                        let old = s.load(e, buf, &[at]);
                        let sum = s.op(e, "addf", old, known[v]);
                        s.store(e, sum, buf, &[at]);
                    }
                }
                next
            })
        };
        if reductions.is_empty() {
            self.walk_plain(e, main_end, &walk);
            return;
        }
        let init: Vec<Val> =
            kinds.iter().flat_map(|k| std::iter::repeat_n(start(k), unroll)).map(|x| self.simd.splat(e, x)).collect();
        let wide = walk(e, &self.simd, unroll, 0, main_end, &init);
        let mut sums: Vec<Val> = vec![];
        for (k, kind) in kinds.iter().enumerate() {
            let mut acc = wide[k * unroll];
            for part in &wide[k * unroll + 1..(k + 1) * unroll] {
                acc = combine(e, &self.simd, *kind, acc, *part);
            }
            let scalar = match kind {
                ReduceKind::Sum => self.simd.reduce_add(e, acc, self.simd.lanes),
                ReduceKind::Max => {
                    e.val(format_args!("vector.reduction <maxnumf>, {acc} : {} into f32", self.simd.ty()))
                }
            };
            sums.push(self.one.broadcast(e, scalar));
        }
        if main_end < self.d.cols {
            sums = walk(e, &self.one, 1, main_end, self.d.cols, &sums);
        }
        state.ready.extend(reductions.iter().map(|n| n.outputs[0]).zip(sums));
    }

    /// A walk that carries nothing: full vectors, then the rest one by one.
    fn walk_plain(
        &self,
        e: &mut Emit,
        main_end: usize,
        walk: &impl Fn(&mut Emit, &Simd, usize, usize, usize, &[Val]) -> Vec<Val>,
    ) {
        if main_end > 0 {
            walk(e, &self.simd, 1, 0, main_end, &[]);
        }
        if main_end < self.d.cols {
            walk(e, &self.one, 1, main_end, self.d.cols, &[]);
        }
    }

    fn def(&self, v: ValueId) -> Option<&Node> {
        self.defs[v.0 as usize].map(|i| &self.func.nodes[i])
    }

    /// Per-row and scalar values that `v` reads, in an order that does not depend on hashing.
    fn row_operands(&self, v: ValueId, out: &mut Vec<ValueId>, seen: &mut HashSet<ValueId>) {
        if !seen.insert(v) {
            return;
        }
        if matches!(self.class(v), Class::Row | Class::Scalar) {
            out.push(v);
            return;
        }
        if let Some(n) = self.def(v) {
            n.inputs.iter().for_each(|u| self.row_operands(*u, out, seen));
        }
    }

    /// A per-row or scalar value as one lane.
    fn row_value(&self, e: &mut Emit, v: ValueId, r: Val, state: &mut RowState) -> Val {
        if let Some(x) = state.ready.get(&v) {
            return *x;
        }
        let x = match self.def(v) {
            None => {
                let buf = &self.params[&v];
                let at = if self.class(v) == Class::Row { r } else { e.index(0) };
                self.one.widen(e, buf, &[at], 1)
            }
            Some(n) => {
                let ins: Vec<Val> = n.inputs.iter().map(|u| self.row_value(e, *u, r, state)).collect();
                pointwise(e, &self.one, &n.op, &ins)
            }
        };
        state.ready.insert(v, x);
        x
    }

    /// A value at row start `at − c` and column `c`.
    fn full(&self, e: &mut Emit, s: &Simd, v: ValueId, (at, c): (Val, Val), known: &mut HashMap<ValueId, Val>) -> Val {
        if let Some(x) = known.get(&v) {
            return *x;
        }
        let x = match self.def(v) {
            None => {
                let place = if self.class(v) == Class::Full { at } else { c };
                s.widen(e, &self.params[&v], &[place], s.lanes)
            }
            Some(n) => {
                let ins: Vec<Val> = n.inputs.iter().map(|u| self.full(e, s, *u, (at, c), known)).collect();
                pointwise(e, s, &n.op, &ins)
            }
        };
        known.insert(v, x);
        x
    }

    /// The kernel that adds up the partial rows.
    fn finish(&self, slots: usize, symbol: &str) -> (KernelText, usize) {
        let cols = self.d.cols;
        let stride = self.sums.len() * cols;
        let partial = Buf { val: Val::Param(0), dims: vec![slots * stride], element: "f32" };
        let mut bufs = vec![partial.clone()];
        for (k, i) in self.sums.iter().enumerate() {
            let ty = self.func.ty(self.func.results[*i].value);
            bufs.push(Buf { val: Val::Param(k as u32 + 1), dims: vec![cols], element: ty.dtype.mlir() });
        }
        let mut e = Emit::default();
        let refs: Vec<&Buf> = bufs.iter().collect();
        e.func(symbol, false, &refs, &["lo", "hi", "worker"], |e| {
            let from = e.idx_c("muli", Val::Arg("lo"), FINISH_BLOCK);
            let to = e.idx_c("muli", Val::Arg("hi"), FINISH_BLOCK);
            let end = e.index(cols);
            let to = e.idx("minui", to, end);
            e.each(from, to, 1, |e, c| {
                for (k, out) in bufs[1..].iter().enumerate() {
                    let at = e.idx_c("addi", c, k * cols);
                    let mut sum = self.one.load(e, &partial, &[at]);
                    for slot in 1..slots {
                        let at = e.idx_c("addi", at, slot * stride);
                        let more = self.one.load(e, &partial, &[at]);
                        sum = self.one.op(e, "addf", sum, more);
                    }
                    self.one.narrow(e, sum, out, &[c], 1);
                }
            });
        });
        let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: bufs.len() };
        (text, cols.div_ceil(FINISH_BLOCK))
    }
}

/// An element of `op`'s result from elements of its operands.
fn pointwise(e: &mut Emit, s: &Simd, op: &Op, ins: &[Val]) -> Val {
    match op {
        Op::Constant { value } => s.splat(e, value.0),
        Op::Unary(f) => math::unary(s, e, *f, ins[0]),
        Op::Binary(f) => math::binary(s, e, *f, ins[0], ins[1]),
        // Registers hold f32; broadcasts and reshapes are a matter of which element is read.
        _ => ins[0],
    }
}

fn combine(e: &mut Emit, s: &Simd, kind: ReduceKind, a: Val, b: Val) -> Val {
    match kind {
        ReduceKind::Sum => s.op(e, "addf", a, b),
        ReduceKind::Max => s.max(e, a, b),
    }
}
