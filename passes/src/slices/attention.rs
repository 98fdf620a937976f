//! Attention of a slice's queries over the keys of all slices so far.

use super::cannot;
use super::cut::{Form, Slicer};
use athanor_ir::{Builder, Loc, Node, Op, Result, Role, TensorType, ValueId};

/// Dim of queries, keys, values and what attention makes of them.
const SEQUENCE: usize = 1;

impl Slicer<'_> {
    /// Writes `node`, attention or its gradient, for a slice.
    ///
    /// # Errors
    /// [`super::CANNOT_SLICE`] if it is not causal, or not of parts of sequences.
    pub(super) fn attend(&mut self, node: &Node) -> Result<()> {
        let (forward, causal) = match node.op {
            Op::Attention { causal, .. } => (true, causal),
            Op::AttentionGrad { causal, .. } => (false, causal),
            _ => return Ok(()),
        };
        let plain = node.inputs.len() == if forward { 3 } else { 6 };
        let refuse = || cannot(format!("attention in {:?} is not causal, or not of slices", node.loc.block));
        if !causal || !plain {
            return refuse();
        }
        let mut inputs = vec![];
        for (i, v) in node.inputs.iter().enumerate() {
            inputs.push(match (i, self.form(*v)) {
                (1, Form::Slice(Some(_))) => self.kept("keys", *v, &node.loc),
                (2, Form::Slice(Some(_))) => self.kept("values", *v, &node.loc),
                (_, Form::Slice(Some(_))) => self.value(*v),
                // A gradient that is the same for every token.
                (0 | 3 | 5, Form::Whole(_)) => self.own_part(*v, SEQUENCE, &node.loc)?,
                _ => return refuse(),
            });
        }
        inputs.push(self.first);
        if forward {
            let types = vec![self.part(node.outputs[0], SEQUENCE)?, self.part(node.outputs[1], 2)?];
            let new = self.out.push(node.op.clone(), &inputs, types, &node.loc);
            self.define(node.outputs[0], new[0], Form::Slice(Some(SEQUENCE)));
            self.define(node.outputs[1], new[1], Form::Slice(Some(2)));
            return Ok(());
        }
        let [dq, dk, dv] = node.outputs[..] else { return cannot("a gradient of attention has three results".into()) };
        let whole = |v: ValueId| self.micro.ty(v).clone();
        let types = vec![self.part(dq, SEQUENCE)?, whole(dk), whole(dv)];
        let new = self.out.push(node.op.clone(), &inputs, types, &node.loc);
        self.define(dq, new[0], Form::Slice(Some(SEQUENCE)));
        for (what, old, new) in [("grad.keys", dk, new[1]), ("grad.values", dv, new[2])] {
            let own = self.own_gradient(what, old, new, &node.loc)?;
            self.define(old, own, Form::Slice(Some(SEQUENCE)));
        }
        Ok(())
    }

    /// The keys or values `value` of all slices up to this one.
    fn kept(&mut self, what: &str, value: ValueId, loc: &Loc) -> ValueId {
        if let Some(known) = self.kept.get(&value) {
            return *known;
        }
        let (name, before) = self.cache(what, self.micro.ty(value).clone(), loc);
        let (part, first) = (self.value(value), self.first);
        let kept =
            Builder::new(&mut self.out, loc.clone()).many(Op::KeepSlice { dim: SEQUENCE }, &[before, part, first])[0];
        self.out.result(name, kept);
        self.kept.insert(value, kept);
        kept
    }

    /// The slice's part of the gradient of keys or values: `new`, of the slices' so far, summed over this slice and all later ones.
    fn own_gradient(&mut self, what: &str, old: ValueId, new: ValueId, loc: &Loc) -> Result<ValueId> {
        let ty = self.micro.ty(old).clone();
        let part = self.part(old, SEQUENCE)?;
        let (name, before) = self.cache(what, ty.with_dtype(Self::wide(ty.dtype)), loc);
        let first = self.first;
        let (len, begin) = (part.dims[SEQUENCE], ty.dims[SEQUENCE] - part.dims[SEQUENCE]);
        let sum = Builder::new(&mut self.out, loc.clone()).many(Op::SumSlices { begin }, &[before, new, first])[0];
        self.out.result(name, sum);
        let own = self.own_slice(sum, SEQUENCE, len, loc);
        Ok(Builder::new(&mut self.out, loc.clone()).cast(own, ty.dtype))
    }

    /// A cache of `what` of the block at `loc`: its name, and what earlier slices left in it.
    pub(super) fn cache(&mut self, what: &str, ty: TensorType, loc: &Loc) -> (String, ValueId) {
        let plain = format!("{what}.{}", loc.block);
        let taken = |name: &str| self.out.find_param(name).is_some();
        let mut names = std::iter::once(plain.clone()).chain((1..).map(|i| format!("{plain}.{i}")));
        let name = names.find(|n| !taken(n)).unwrap_or(plain);
        let before = self.out.param(name.clone(), ty, Role::Cache, loc.clone());
        (name, before)
    }
}
