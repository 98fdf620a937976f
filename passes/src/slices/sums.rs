//! Sums over tokens that something else than a sum reads: of all slices so far.
//!
//! What is computed of such sums is right in the last slice. That is enough for a loss, which is taken from that slice then, and
//! for its derivative: the backward part begins when the last slice has come through, and finds the whole sum in its cache.

use super::cannot;
use super::cut::{Form, Slicer};
use athanor_ir::{Binary, Builder, DType, F64, Loc, Node, Op, ReduceKind, Result, Role, TensorType, Unary, ValueId};

impl Slicer<'_> {
    /// What `node` reads, and the forms of that, if it can be read: sums over tokens of which the slice has a part stay such where
    /// `node` is linear in them, else they are summed over slices first. `alone` says that `node` reads nothing with tokens.
    pub(super) fn sums_as_read(
        &mut self,
        node: &Node,
        forward: bool,
        alone: bool,
    ) -> Result<Option<(Vec<ValueId>, Vec<Form>)>> {
        let mut forms: Vec<Form> = node.inputs.iter().map(|v| self.form(*v)).collect();
        let mut given: Vec<ValueId> = node.inputs.iter().map(|v| self.value(*v)).collect();
        if !forward {
            for i in 0..forms.len() {
                let v = node.inputs[i];
                let of_forward = self.defs[v.0 as usize].is_some_and(|d| self.forward[d]);
                match forms[i] {
                    Form::Partial if of_forward => {
                        (given[i], forms[i]) = (self.so_far(v)?, Form::Whole(None));
                    }
                    // It was computed when the slice came through, and is right of the last one only.
                    Form::Last => return Ok(None),
                    _ => {}
                }
            }
        }
        let sums = |f: &Form| matches!(f, Form::Partial | Form::Last);
        if !forms.iter().any(sums) {
            return Ok(Some((given, forms)));
        }
        if !alone {
            return Ok(None);
        }
        if !forms.contains(&Form::Last) && self.stays_a_sum(node, &forms) {
            return Ok(Some((given, forms)));
        }
        if !forward {
            return Ok(None);
        }
        let adds = matches!(node.op, Op::Binary(Binary::Add | Binary::Sub)) && forms.iter().all(sums);
        let adds = adds && forms.contains(&Form::Partial);
        for (i, v) in node.inputs.iter().enumerate() {
            match forms[i] {
                Form::Last if adds => (given[i], forms[i]) = (self.in_the_last(*v), Form::Partial),
                Form::Partial if !adds => (given[i], forms[i]) = (self.so_far(*v)?, Form::Last),
                _ => {}
            }
        }
        Ok(Some((given, forms)))
    }

    /// Whether the sum over slices of the results of `node` is what it gives for the sums over slices of its operands.
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

    /// The sum over the slices so far of `value`, a sum over tokens.
    ///
    /// # Errors
    /// [`super::CANNOT_SLICE`] behind the logits, which are made when slices go back.
    fn so_far(&mut self, value: ValueId) -> Result<ValueId> {
        if let Some(known) = self.sums.get(&value) {
            return Ok(*known);
        }
        let loc = self.defs[value.0 as usize].map_or_else(Loc::default, |d| self.micro.nodes[d].loc.clone());
        if self.behind_logits(value) {
            return cannot(format!("the loss in {:?} is more than a sum over tokens", loc.block));
        }
        let ty = self.micro.ty(value).clone();
        let (name, before) = self.cache("sums", ty.with_dtype(Self::wide(ty.dtype)), &loc);
        let (new, first) = (self.value(value), self.first);
        let mut b = Builder::new(&mut self.out, loc);
        let all = b.many(Op::SumSlices { begin: 0 }, &[before, new, first])[0];
        let sum = b.cast(all, ty.dtype);
        self.out.result(name, all);
        self.sums.insert(value, sum);
        Ok(sum)
    }

    /// Whether `value` is made of a loss over a vocabulary.
    fn behind_logits(&self, value: ValueId) -> bool {
        let needed = self.micro.needed_for([value]);
        self.micro.nodes.iter().zip(needed).any(|(n, needed)| needed && n.op == Op::CrossEntropy)
    }

    /// `value`, which is right in the last slice, there, and 0 before: a sum over slices.
    pub(super) fn in_the_last(&mut self, value: ValueId) -> ValueId {
        let (ty, new) = (self.micro.ty(value).clone(), self.value(value));
        let tokens = self.tokens();
        let ones = |n: usize| TensorType::new(ty.dtype, [n]);
        let last = if let Some(known) = self.last.get(&ty.dtype) {
            *known
        } else {
            let first = self.first;
            let len = tokens / self.slices;
            let mut b = Builder::new(&mut self.out, Loc::default());
            let (zeros, one) = (b.constant(0.0, ones(tokens - 1)), b.constant(1.0, ones(1)));
            let marked = b.many(Op::Concat { dim: 0 }, &[zeros, one])[0];
            let own = b.many(Op::OwnSlice { dim: 0, len }, &[marked, first])[0];
            let end = b.slice(own, 0, len - 1, 1);
            let last = b.reshape(end, &[]);
            self.last.insert(ty.dtype, last);
            last
        };
        let mut b = Builder::new(&mut self.out, Loc { block: "loss".into(), ..Loc::default() });
        let last = b.broadcast(last, &[], &ty.dims);
        b.mul(new, last)
    }

    /// Tokens of a sequence.
    fn tokens(&self) -> usize {
        let inputs = self.micro.params.iter().filter(|p| p.role == Role::Input).map(|p| self.micro.ty(p.value));
        inputs.filter_map(|t| t.dims.get(1)).copied().next().unwrap_or(1)
    }

    /// The type of a sum: f32 at least.
    pub(super) fn wide(dtype: DType) -> DType {
        if dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
