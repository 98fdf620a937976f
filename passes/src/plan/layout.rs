//! Which memory each value of a function gets: its own, a view into another value's, or the place of a state.

use athanor_ir::collective::{Collective, CollectiveKind};
use athanor_ir::func::{Func, ValueId};
use athanor_ir::memory::{Memory, of_values};
use athanor_ir::op::Op;
use std::collections::HashMap;

/// What a place is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Home {
    /// A buffer with a global name (index into [`Names`]), kept between programs.
    Named(usize),
    /// A block of the function, placed by its life.
    Local(usize),
}

/// Bytes of a value: a home and a byte offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Containing block.
    pub home: Home,
    /// Byte offset in it.
    pub offset: usize,
}

/// Buffers with global names.
#[derive(Debug, Default)]
pub struct Names {
    by_name: HashMap<String, usize>,
}

impl Names {
    /// Registers `name`; its index.
    pub fn add(&mut self, name: &str) -> usize {
        let next = self.by_name.len();
        *self.by_name.entry(name.to_owned()).or_insert(next)
    }

    /// Index of `name`.
    pub fn get(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// A block of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Size in bytes.
    pub bytes: usize,
    /// Which memory it lies in.
    pub memory: Memory,
}

/// Memory of every value of one function.
#[derive(Debug)]
pub struct Layout {
    /// Place of each value.
    pub places: Vec<Place>,
    /// Blocks of the function.
    pub locals: Vec<Local>,
    /// Values to copy at the end: (value, state to copy it to).
    pub copies_out: Vec<(ValueId, usize)>,
    /// Nodes that move no bytes: reshapes, slices and concatenations that became views.
    pub view: Vec<bool>,
}

/// Byte offset of a slice that is one contiguous run, if it is one.
pub(crate) fn contiguous_slice(func: &Func, node: usize) -> Option<usize> {
    let n = &func.nodes[node];
    let Op::Slice { dim, start, .. } = n.op else { return None };
    let ty = func.ty(n.inputs[0]);
    let inner: usize = ty.dims[dim + 1..].iter().product();
    ty.dims[..dim].iter().all(|d| *d == 1).then(|| start * inner * ty.dtype.bytes())
}

/// Operand whose place the node's result `output` may or must take over, element for element.
pub fn in_place(op: &Op, output: usize) -> &'static [usize] {
    match (op, output) {
        (Op::Unary(_) | Op::RmsNorm { .. } | Op::LayerNorm { .. }, 0) => &[0],
        (Op::CrossEntropyGrad | Op::PartEntropyGrad, 0) => &[0],
        (Op::Binary(_), 0) => &[0, 1],
        (Op::AdamW { .. }, 0) => &[0],
        (Op::AdamW { .. }, 1) => &[2],
        (Op::AdamW { .. }, 2) => &[3],
        (Op::KeepSlice { .. } | Op::SumSlices { .. }, 0) => &[0],
        (Op::Einsum { .. }, 0) => &[2],
        (Op::GroupedEinsum { .. }, 0) => &[3],
        (Op::Collective(Collective { kind: CollectiveKind::AllReduce { .. } | CollectiveKind::SumEnds, .. }), 0) => {
            &[0]
        }
        _ => &[],
    }
}

struct Planner<'a> {
    func: &'a Func,
    defs: Vec<Option<usize>>,
    /// Last node that reads each value; `usize::MAX` for results.
    last_use: Vec<usize>,
    wanted: HashMap<ValueId, Place>,
    places: Vec<Option<Place>>,
    /// Which memory each value lies in.
    memory: Vec<Memory>,
    locals: Vec<Local>,
    residents: HashMap<Home, Vec<ValueId>>,
}

impl Planner<'_> {
    /// A block for `value` alone.
    fn new_local(&mut self, value: ValueId) -> Place {
        let (bytes, memory) = (self.func.ty(value).bytes(), self.memory[value.0 as usize]);
        self.locals.push(Local { bytes, memory });
        Place { home: Home::Local(self.locals.len() - 1), offset: 0 }
    }

    /// Whether `value` is made by a node that writes bytes, so that it can be told where to write them.
    fn steerable(&self, value: ValueId) -> bool {
        let Some(node) = self.defs[value.0 as usize] else { return false };
        let moves = match self.func.nodes[node].op {
            Op::Reshape | Op::Await | Op::RopeTable { .. } | Op::Handover { .. } => false,
            Op::Slice { .. } => contiguous_slice(self.func, node).is_none(),
            _ => true,
        };
        moves && !self.wanted.contains_key(&value) && self.places[value.0 as usize].is_none()
    }

    /// Last node at which a value that shares `value`'s bytes by being a view of it is read.
    fn last_read_through_views(&self, value: ValueId) -> usize {
        let mut shared = vec![value];
        let mut last = self.last_use[value.0 as usize];
        for (i, node) in self.func.nodes.iter().enumerate() {
            let view = matches!(node.op, Op::Reshape | Op::Await) || contiguous_slice(self.func, i).is_some();
            if view && shared.contains(&node.inputs[0]) {
                shared.push(node.outputs[0]);
                last = last.max(self.last_use[node.outputs[0].0 as usize]);
            }
        }
        last
    }

    /// A product that accumulates in `value`'s place wants what it adds to there as well, and so on down the chain, as
    /// long as nobody else reads those sums or the old content `old` of the place.
    fn want_sums(&mut self, value: ValueId, place: Place, old: Option<ValueId>) {
        let mut value = value;
        while let Some(def) = self.defs[value.0 as usize] {
            let node = &self.func.nodes[def];
            let Some(acc) = node.op.addend().and_then(|i| node.inputs.get(i)).copied() else { return };
            let Some(from) = self.defs[acc.0 as usize] else { return };
            let unread = old.is_none_or(|o| self.last_read_through_views(o) < from);
            if !(self.last_use[acc.0 as usize] == def && self.steerable(acc) && unread) {
                return;
            }
            self.wanted.insert(acc, place);
            value = acc;
        }
    }

    fn settle(&mut self, value: ValueId, place: Place) {
        self.places[value.0 as usize] = Some(place);
        self.residents.entry(place.home).or_default().push(value);
    }

    /// Whether every value in `place`'s home is dead after node `i` but for `keep`.
    fn free_after(&self, home: Home, i: usize) -> bool {
        self.residents.get(&home).is_none_or(|vs| vs.iter().all(|v| self.last_use[v.0 as usize] <= i))
    }
}

/// Lays out `func`; `names` holds every parameter and state, `persistent` the values that `setup` computes.
pub fn layout(func: &Func, names: &Names, persistent: &[(ValueId, usize)]) -> Layout {
    let count = func.types.len();
    let mut last_use = vec![0; count];
    for (i, node) in func.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|v| last_use[v.0 as usize] = i);
    }
    func.results.iter().for_each(|r| last_use[r.value.0 as usize] = usize::MAX);
    let mut p = Planner {
        func,
        defs: func.defs(),
        last_use,
        wanted: HashMap::new(),
        places: vec![None; count],
        memory: of_values(func),
        locals: vec![],
        residents: HashMap::new(),
    };
    let named = |i: usize| Place { home: Home::Named(i), offset: 0 };
    for param in &func.params {
        let place = match names.get(&param.name) {
            Some(i) => named(i),
            // What the position before hands on lies in the slot of its micro-batch.
            None => p.new_local(param.value),
        };
        p.settle(param.value, place);
    }
    for (v, i) in persistent {
        p.settle(*v, named(*i));
    }
    let mut view = vec![false; func.nodes.len()];
    let mut copies_out = vec![];
    // Results that replace a state are computed in its place unless its old value is still read later.
    for r in &func.results {
        let Some(state) = names.get(&r.name) else { continue };
        let mut value = r.value;
        while let Some(i) = p.defs[value.0 as usize].filter(|i| matches!(func.nodes[*i].op, Op::Reshape)) {
            value = func.nodes[i].inputs[0];
        }
        let old = func.find_param(&r.name).map(|param| param.value);
        let safe = |p: &Planner<'_>, def: usize| {
            let Some(old) = old else { return true };
            let last = p.last_read_through_views(old);
            let node = &func.nodes[def];
            let slot = node.outputs.iter().position(|o| *o == value).unwrap_or(0);
            let ties = in_place(&node.op, slot);
            let tied = || ties.iter().any(|k| node.inputs.get(*k) == Some(&old));
            last < def || (last == def && tied() && node.inputs.iter().filter(|v| **v == old).count() == 1)
        };
        match p.defs[value.0 as usize] {
            Some(def) if p.steerable(value) && safe(&p, def) => {
                p.wanted.insert(value, named(state));
                p.want_sums(value, named(state), old);
            }
            _ if Some(r.value) == old => {}
            _ => copies_out.push((r.value, state)),
        }
    }
    // A concatenation along the outermost dim needs no work if its operands are written where they belong.
    for (i, node) in func.nodes.iter().enumerate().rev() {
        let Op::Concat { dim } = node.op else { continue };
        let out = func.ty(node.outputs[0]);
        let fresh = |k: usize, v: ValueId| p.steerable(v) && !node.inputs[..k].contains(&v);
        let ok = out.dims[..dim].iter().all(|d| *d == 1) && node.inputs.iter().enumerate().all(|(k, v)| fresh(k, *v));
        if ok {
            let place = match p.wanted.get(&node.outputs[0]) {
                Some(place) => *place,
                None => p.new_local(node.outputs[0]),
            };
            p.wanted.insert(node.outputs[0], place);
            let mut offset = place.offset;
            for v in &node.inputs {
                p.wanted.insert(*v, Place { offset, ..place });
                offset += func.ty(*v).bytes();
            }
            view[i] = true;
        }
    }
    for (i, node) in func.nodes.iter().enumerate() {
        if node.op == (Op::Handover { last: true }) {
            view[i] = true;
            for (from, to) in node.inputs.iter().zip(&node.outputs) {
                if let Some(place) = p.places[from.0 as usize] {
                    p.settle(*to, place);
                }
            }
            continue;
        }
        let source = |p: &Planner<'_>| node.inputs.first().and_then(|v| p.places[v.0 as usize]);
        let alias = match node.op {
            Op::Reshape | Op::Await => source(&p),
            Op::Slice { .. } => contiguous_slice(func, i)
                .and_then(|bytes| source(&p).map(|place| Place { offset: place.offset + bytes, ..place })),
            _ => None,
        };
        if let Some(place) = alias {
            view[i] = true;
            p.settle(node.outputs[0], place);
            continue;
        }
        for (slot, out) in node.outputs.iter().enumerate() {
            if p.places[out.0 as usize].is_some() {
                continue;
            }
            let bytes = func.ty(*out).bytes();
            let reuse = in_place(&node.op, slot).iter().filter_map(|k| node.inputs.get(*k)).find_map(|v| {
                let place = p.places[v.0 as usize]?;
                let whole = matches!(place.home, Home::Local(l) if place.offset == 0 && p.locals[l].bytes == bytes);
                let once = node.inputs.iter().filter(|u| *u == v).count() == 1;
                let same = func.ty(*v) == func.ty(*out);
                (whole && once && same && p.free_after(place.home, i)).then_some(place)
            });
            let place = match p.wanted.get(out).copied().or(reuse) {
                Some(place) => place,
                None => p.new_local(*out),
            };
            p.settle(*out, place);
        }
    }
    let nowhere = Place { home: Home::Local(usize::MAX), offset: 0 };
    Layout { places: p.places.into_iter().map(|x| x.unwrap_or(nowhere)).collect(), locals: p.locals, copies_out, view }
}
