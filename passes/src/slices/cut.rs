//! What each value is of in the program of a slice, and ops on slices.

use super::cannot;
use crate::partition::spread::{is_summed, labels, together};
use athanor_ir::pipeline::FIRST;
use athanor_ir::{Builder, DType, Func, Loc, Node, Op, Result, Role, TensorType, ValueId};
use std::collections::{BTreeSet, HashMap};

/// What a value is in the program of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The same whatever slice it is, with the dim that is the sequence, if there is one.
    Whole(Option<usize>),
    /// The slice's part along a dim, or what is known of its tokens without having a dim of them.
    Slice(Option<usize>),
    /// The sum over slices is what it is of the whole sequence.
    Partial,
    /// In the last slice it is what it is of the whole sequence: it is made of sums over the slices so far.
    Last,
}

/// `micro` for one of `slices` slices.
///
/// # Errors
/// [`super::CANNOT_SLICE`].
pub(super) fn sliced(micro: &Func, slices: usize) -> Result<Func> {
    let mut s = Slicer::of(micro, slices);
    for (node, forward) in micro.nodes.iter().zip(micro.needed_for(micro.forward_results())) {
        s.node(node, forward)?;
    }
    for r in &micro.results {
        // Tokens are counted over the whole sequence, which whoever runs the slices takes once.
        let fits = match s.form(r.value) {
            Form::Partial | Form::Last => true,
            Form::Whole(_) => r.name == "token_count",
            Form::Slice(_) => false,
        };
        if !fits {
            return cannot(format!("result {} is no sum over tokens", r.name));
        }
        let value = if s.form(r.value) == Form::Last { s.in_the_last(r.value) } else { s.value(r.value) };
        s.out.result(r.name.clone(), value);
    }
    Ok(s.out.without_dead_nodes())
}

/// `micro` on its way to the program of a slice.
pub(super) struct Slicer<'a> {
    pub(super) micro: &'a Func,
    pub(super) slices: usize,
    pub(super) out: Func,
    /// Where the sequence begins, counted from the slice.
    pub(super) first: ValueId,
    pub(super) defs: Vec<Option<usize>>,
    /// By old value.
    forms: Vec<Option<Form>>,
    /// Whether an old value depends on inputs and constants alone.
    free: Vec<bool>,
    new: Vec<Option<ValueId>>,
    /// The slice's part of whole old values along a dim.
    own: HashMap<(ValueId, usize), ValueId>,
    /// Keys and values of all slices so far, by old value.
    pub(super) kept: HashMap<ValueId, ValueId>,
    /// Nodes of the forward part.
    pub(super) forward: Vec<bool>,
    /// Sums over the slices so far, by old value.
    pub(super) sums: HashMap<ValueId, ValueId>,
    /// 1 in the last slice, 0 before, by type.
    pub(super) last: HashMap<DType, ValueId>,
}

impl<'a> Slicer<'a> {
    fn of(micro: &'a Func, slices: usize) -> Self {
        let mut out = Func::new(micro.name.clone());
        let count = micro.types.len();
        let (mut forms, mut free, mut new) = (vec![None; count], vec![false; count], vec![None; count]);
        for p in &micro.params {
            let (v, ty) = (p.value.0 as usize, micro.ty(p.value));
            new[v] = Some(out.param(p.name.clone(), ty.clone(), p.role.clone(), p.loc.clone()));
            free[v] = p.role == Role::Input;
            forms[v] = Some(match p.role {
                Role::Input => Form::Whole((ty.rank() > 1).then_some(1)),
                Role::Grad => Form::Partial,
                _ => Form::Whole(None),
            });
        }
        let first = out.param(FIRST, TensorType::scalar(DType::I32), Role::Input, Loc::default());
        let (defs, own, kept) = (micro.defs(), HashMap::new(), HashMap::new());
        let (forward, sums, last) = (micro.needed_for(micro.forward_results()), HashMap::new(), HashMap::new());
        Self { micro, slices, out, first, defs, forms, free, new, own, kept, forward, sums, last }
    }

    pub(super) fn form(&self, old: ValueId) -> Form {
        self.forms[old.0 as usize].unwrap_or(Form::Whole(None))
    }

    /// The new value of an old one, of its form.
    pub(super) fn value(&self, old: ValueId) -> ValueId {
        let Some(new) = self.new[old.0 as usize] else { unreachable!("operands come before their uses") };
        new
    }

    pub(super) fn define(&mut self, old: ValueId, new: ValueId, form: Form) {
        self.new[old.0 as usize] = Some(new);
        self.forms[old.0 as usize] = Some(form);
    }

    /// Type of the slice's part of `value` along `dim`.
    ///
    /// # Errors
    /// [`super::CANNOT_SLICE`] if it is not divided.
    pub(super) fn part(&self, value: ValueId, dim: usize) -> Result<TensorType> {
        let mut ty = self.micro.ty(value).clone();
        if !ty.dims[dim].is_multiple_of(self.slices) {
            return cannot(format!("{} tokens cannot be cut in {} equal slices", ty.dims[dim], self.slices));
        }
        ty.dims[dim] /= self.slices;
        Ok(ty)
    }

    fn node(&mut self, node: &Node, forward: bool) -> Result<()> {
        if let Op::Attention { .. } | Op::AttentionGrad { .. } = node.op {
            return self.attend(node);
        }
        let types = |vs: &[ValueId]| vs.iter().map(|v| self.micro.ty(*v).clone()).collect::<Vec<_>>();
        let (ins, outs) = (types(&node.inputs), types(&node.outputs));
        let refuse = |why: &str| cannot(format!("nn.{} in {:?} {why}", node.op.name(), node.loc.block));
        let Some(s) = labels(&node.op, &ins, &outs) else { return refuse("is a call: cut sequences before `fuse`") };
        let free = node.inputs.iter().all(|v| self.free[v.0 as usize]);
        // The labels of what is cut: the sequence, and rows of its tokens.
        let mut cut: BTreeSet<char> = BTreeSet::new();
        for (value, labels) in node.inputs.iter().zip(&s.operands) {
            if let Form::Slice(Some(d)) | Form::Whole(Some(d)) = self.form(*value) {
                cut.insert(labels[d]);
            }
        }
        if free {
            let table = matches!(node.op, Op::RopeTable { .. }).then_some(0);
            let inputs: Vec<ValueId> = node.inputs.iter().map(|v| self.value(*v)).collect();
            let new = self.out.push(node.op.clone(), &inputs, outs, &node.loc);
            for ((old, new), labels) in node.outputs.iter().zip(new).zip(&s.results) {
                self.free[old.0 as usize] = true;
                self.define(*old, new, Form::Whole(table.or(labels.iter().position(|l| cut.contains(l)))));
            }
            return Ok(());
        }
        let Some((given, forms)) = self.sums_as_read(node, forward, cut.is_empty())? else {
            return refuse("reads a sum over tokens of which a slice has a part");
        };
        if !cut.is_empty() && together(&node.op) {
            cut.insert('r');
        }
        if s.whole.iter().any(|l| cut.contains(l)) {
            return refuse("needs all of a sequence");
        }
        let mut inputs = vec![];
        for (i, ((value, labels), form)) in node.inputs.iter().zip(&s.operands).zip(&forms).enumerate() {
            inputs.push(match (form, labels.iter().position(|l| cut.contains(l))) {
                (Form::Whole(_), Some(d)) => self.own_part(*value, d, &node.loc)?,
                (Form::Slice(None), _) if !matches!((&node.op, i), (Op::GroupedEinsum { .. }, 2)) => {
                    return refuse("reads where the experts of a slice's tokens are");
                }
                _ => given[i],
            });
        }
        let sum = [Form::Last, Form::Partial].into_iter().find(|f| forms.contains(f));
        let (mut types, mut made) = (vec![], vec![]);
        for (old, labels) in node.outputs.iter().zip(&s.results) {
            let dim = labels.iter().position(|l| cut.contains(l));
            types.push(dim.map_or_else(|| Ok(self.micro.ty(*old).clone()), |d| self.part(*old, d))?);
            made.push(match dim {
                Some(_) => Form::Slice(dim),
                None if cut.is_empty() => sum.unwrap_or(Form::Whole(None)),
                None if together(&node.op) && !cut.iter().any(|l| is_summed(*l)) => Form::Slice(None),
                None => Form::Partial,
            });
        }
        let op = match &node.op {
            Op::Dispatch { .. } => Op::Dispatch { rows: types[0].dims[0] },
            op => op.clone(),
        };
        let new = self.out.push(op, &inputs, types, &node.loc);
        for ((old, new), form) in node.outputs.iter().zip(new).zip(made) {
            self.define(*old, new, form);
        }
        Ok(())
    }

    /// The slice's part along `dim` of what is whole.
    pub(super) fn own_part(&mut self, value: ValueId, dim: usize, loc: &Loc) -> Result<ValueId> {
        if let Some(known) = self.own.get(&(value, dim)) {
            return Ok(*known);
        }
        let ty = self.part(value, dim)?;
        let node = self.defs[value.0 as usize].map(|d| &self.micro.nodes[d]);
        let own = match node.map(|n| (&n.op, n)) {
            Some((Op::Constant { .. }, n)) => self.out.push(n.op.clone(), &[], vec![ty], &n.loc)[0],
            Some((Op::Broadcast { dims }, n)) => {
                let x = match dims.iter().position(|d| *d == dim) {
                    Some(from) => self.own_part(n.inputs[0], from, loc)?,
                    None => self.value(n.inputs[0]),
                };
                self.out.push(n.op.clone(), &[x], vec![ty], &n.loc)[0]
            }
            _ => {
                let whole = self.value(value);
                self.own_slice(whole, dim, ty.dims[dim], loc)
            }
        };
        self.own.insert((value, dim), own);
        Ok(own)
    }

    /// The slice's `len` indices along `dim` of the new value `whole`.
    pub(super) fn own_slice(&mut self, whole: ValueId, dim: usize, len: usize, loc: &Loc) -> ValueId {
        let first = self.first;
        Builder::new(&mut self.out, loc.clone()).many(Op::OwnSlice { dim, len }, &[whole, first])[0]
    }
}
