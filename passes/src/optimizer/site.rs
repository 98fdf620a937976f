//! Where the step of one weight is built, with the arithmetic that all rules share.

use athanor_ir::{Binary, Builder, DType, Op, ReduceKind, Unary, ValueId};

/// What one weight's step is built from.
pub(super) struct Site<'s, 'f> {
    /// Appends nodes at the weight's place.
    pub(super) b: &'s mut Builder<'f>,
    /// Global name of the weight.
    pub(super) name: &'s str,
    /// The weight.
    pub(super) p: ValueId,
    /// Its gradient as `micro` left it.
    pub(super) g: ValueId,
    /// f32 scalar that the gradient is multiplied by first.
    pub(super) g_scale: ValueId,
    /// States of the rule.
    pub(super) states: Vec<ValueId>,
    /// Weight decay applies.
    pub(super) decays: bool,
    /// The scalar inputs of the weight's group by name.
    pub(super) scalar: &'s dyn Fn(&str) -> Option<ValueId>,
}

/// New values of one weight.
pub(super) struct Step {
    /// The weight.
    pub(super) weight: ValueId,
    /// The states, in the order of [`Site::states`].
    pub(super) states: Vec<ValueId>,
}

impl Site<'_, '_> {
    /// The f32 scalar input `name`; every rule's are in `OptimizerSpec::scalars`.
    pub(super) fn input(&mut self, name: &str) -> ValueId {
        match (self.scalar)(name) {
            Some(v) => v,
            None => panic!("the rule reads the scalar {name:?}, which OptimizerSpec::scalars does not list"),
        }
    }

    /// `x` in f32.
    pub(super) fn f32(&mut self, x: ValueId) -> ValueId {
        self.b.cast(x, DType::F32)
    }

    /// The weight in f32.
    pub(super) fn weight(&mut self) -> ValueId {
        self.f32(self.p)
    }

    /// The gradient in f32, clipped and in its own unit.
    pub(super) fn gradient(&mut self) -> ValueId {
        let g = self.f32(self.g);
        self.scaled(g, self.g_scale)
    }

    /// The gradient plus `decay` times the weight, if it decays.
    pub(super) fn decayed_gradient(&mut self, decay: f64) -> ValueId {
        let g = self.gradient();
        if decay == 0.0 {
            return g;
        }
        let p = self.weight();
        let pull = self.times(p, decay);
        self.b.add(g, pull)
    }

    /// `x` times a constant.
    pub(super) fn times(&mut self, x: ValueId, factor: f64) -> ValueId {
        let ty = self.b.ty(x);
        let factor = self.b.constant(factor, ty);
        self.b.mul(x, factor)
    }

    /// `x` plus a constant.
    pub(super) fn plus(&mut self, x: ValueId, term: f64) -> ValueId {
        let ty = self.b.ty(x);
        let term = self.b.constant(term, ty);
        self.b.add(x, term)
    }

    /// A scalar at every element of `like`.
    pub(super) fn spread(&mut self, scalar: ValueId, like: ValueId) -> ValueId {
        let dims = self.b.ty(like).dims;
        self.b.broadcast(scalar, &[], &dims)
    }

    /// `x` times a scalar value.
    pub(super) fn scaled(&mut self, x: ValueId, scalar: ValueId) -> ValueId {
        let factor = self.spread(scalar, x);
        self.b.mul(x, factor)
    }

    /// decay·`old` + (1−decay)·`new`
    pub(super) fn average(&mut self, old: ValueId, new: ValueId, decay: f64) -> ValueId {
        let (old, new) = (self.times(old, decay), self.times(new, 1.0 - decay));
        self.b.add(old, new)
    }

    /// a − b
    pub(super) fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.b.binary(Binary::Sub, a, b)
    }

    /// a / b
    pub(super) fn div(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.b.binary(Binary::Div, a, b)
    }

    /// √x
    pub(super) fn sqrt(&mut self, x: ValueId) -> ValueId {
        self.b.unary(Unary::Sqrt, x)
    }

    /// Mean over `dims`.
    pub(super) fn mean(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        let count: usize = dims.iter().map(|d| self.b.ty(x).dims[*d]).product();
        let sum = self.b.reduce(ReduceKind::Sum, x, dims);
        self.times(sum, 1.0 / count as f64)
    }

    /// ‖x‖ as an f32 scalar, summed in f64.
    pub(super) fn norm(&mut self, x: ValueId) -> ValueId {
        let squares = self.b.many(Op::SumSquares, &[x])[0];
        let norm = self.sqrt(squares);
        self.f32(norm)
    }

    /// `p·(1 − lr·decay)` in f32, or p if nothing decays.
    pub(super) fn shrunk(&mut self, decay: f64) -> ValueId {
        let p = self.weight();
        if decay == 0.0 {
            return p;
        }
        let lr = self.input("lr");
        let part = self.times(lr, decay);
        let gone = self.scaled(p, part);
        self.sub(p, gone)
    }

    /// `value` as the new weight, in its dtype.
    pub(super) fn step(&mut self, value: ValueId, states: Vec<ValueId>) -> Step {
        let dtype = self.b.ty(self.p).dtype;
        Step { weight: self.b.cast(value, dtype), states }
    }
}
