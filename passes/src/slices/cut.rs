//! What each value is of in the program of a slice, and ops on slices.

use super::cannot;
use crate::partition::spread::{is_summed, labels, together};
use athanor_ir::pipeline::FIRST;
use athanor_ir::{
    Binary, Builder, DType, F64, Func, Loc, Node, Op, ReduceKind, Result, Role, TensorType, Unary, ValueId,
};
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
}

/// `micro` for one of `slices` slices.
///
/// # Errors
/// [`super::CANNOT_SLICE`].
pub(super) fn sliced(micro: &Func, slices: usize) -> Result<Func> {
    let mut s = Slicer::of(micro, slices);
    for node in &micro.nodes {
        s.node(node)?;
    }
    for r in &micro.results {
        // Tokens are counted over the whole sequence, which whoever runs the slices takes once.
        let fits = match s.form(r.value) {
            Form::Partial => true,
            Form::Whole(_) => r.name == "token_count",
            Form::Slice(_) => false,
        };
        if !fits {
            return cannot(format!("result {} is no sum over tokens", r.name));
        }
        let value = s.new(r.value);
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
    defs: Vec<Option<usize>>,
    /// By old value.
    forms: Vec<Option<Form>>,
    /// Whether an old value depends on inputs and constants alone.
    free: Vec<bool>,
    new: Vec<Option<ValueId>>,
    /// The slice's part of whole old values along a dim.
    own: HashMap<(ValueId, usize), ValueId>,
    /// Keys and values of all slices so far, by old value.
    pub(super) kept: HashMap<ValueId, ValueId>,
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
        Self { micro, slices, out, first, defs, forms, free, new, own, kept }
    }

    pub(super) fn form(&self, old: ValueId) -> Form {
        self.forms[old.0 as usize].unwrap_or(Form::Whole(None))
    }

    /// The new value of an old one, of its form.
    pub(super) fn new(&self, old: ValueId) -> ValueId {
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

    fn node(&mut self, node: &Node) -> Result<()> {
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
            let inputs: Vec<ValueId> = node.inputs.iter().map(|v| self.new(*v)).collect();
            let new = self.out.push(node.op.clone(), &inputs, outs, &node.loc);
            for ((old, new), labels) in node.outputs.iter().zip(new).zip(&s.results) {
                self.free[old.0 as usize] = true;
                self.define(*old, new, Form::Whole(table.or(labels.iter().position(|l| cut.contains(l)))));
            }
            return Ok(());
        }
        let forms: Vec<Form> = node.inputs.iter().map(|v| self.form(*v)).collect();
        if forms.contains(&Form::Partial) {
            if !cut.is_empty() || !self.stays_a_sum(node, &forms) {
                return refuse("reads a sum over tokens of which a slice has a part");
            }
        }
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
                _ => self.new(*value),
            });
        }
        let (mut types, mut made) = (vec![], vec![]);
        for (old, labels) in node.outputs.iter().zip(&s.results) {
            let dim = labels.iter().position(|l| cut.contains(l));
            types.push(dim.map_or_else(|| Ok(self.micro.ty(*old).clone()), |d| self.part(*old, d))?);
            made.push(match dim {
                Some(_) => Form::Slice(dim),
                None if cut.is_empty() && !forms.contains(&Form::Partial) => Form::Whole(None),
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

    /// Whether the sum over slices of the results of `node` is what it gives for the sums over slices of its operands, which have
    /// no tokens.
    fn stays_a_sum(&self, node: &Node, forms: &[Form]) -> bool {
        let sums = forms.iter().filter(|f| **f == Form::Partial).count();
        let zero = |v: &ValueId| {
            let def = self.defs[v.0 as usize].map(|d| &self.micro.nodes[d].op);
            def == Some(&Op::Constant { value: F64(0.0) })
        };
        match node.op {
            Op::Cast | Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Broadcast { .. } => true,
            Op::Unary(Unary::Neg) | Op::Reduce { kind: ReduceKind::Sum, .. } => true,
            Op::Binary(Binary::Add | Binary::Sub) | Op::Concat { .. } => {
                node.inputs.iter().zip(forms).all(|(v, f)| *f == Form::Partial || zero(v))
            }
            Op::Binary(Binary::Mul) | Op::Einsum { .. } => sums == 1,
            Op::Binary(Binary::Div) => forms[1] != Form::Partial,
            _ => false,
        }
    }

    /// The slice's part along `dim` of what is whole.
    fn own_part(&mut self, value: ValueId, dim: usize, loc: &Loc) -> Result<ValueId> {
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
                    None => self.new(n.inputs[0]),
                };
                self.out.push(n.op.clone(), &[x], vec![ty], &n.loc)[0]
            }
            _ => {
                let whole = self.new(value);
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
