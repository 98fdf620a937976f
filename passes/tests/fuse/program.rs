//! Small random functions: a list of numbers decides op by op, so that shorter lists are smaller functions.

use athanor_backends::cpu::reference::Tensor;
use athanor_ir::{Binary, Builder, DType, F64, Func, Loc, Op, ReduceKind, Role, TensorType, Unary, ValueId};

/// Uniform numbers that depend on a seed alone.
pub struct Draw(pub u64);

impl Draw {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [−1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// A function with what its results may differ by when it is computed another way.
pub struct Program {
    pub func: Func,
    /// By result: the size of the numbers that went into it, of which rounding takes a part.
    pub scales: Vec<f64>,
    /// Whether some values are bf16.
    pub narrow: bool,
}

/// Spaces of the functions: some with as many rows as columns, some below the size from which groups are formed.
const SHAPES: [&[usize]; 7] = [&[4, 32], &[2, 3, 24], &[8, 8], &[2, 4, 8, 8], &[16, 5], &[3, 64], &[2, 7]];
const NORM_EPS: F64 = F64(0.1);

struct Maker<'a> {
    b: Builder<'a>,
    /// Values to use, with the scale of the numbers that went into each.
    pool: Vec<(ValueId, f64)>,
    dims: Vec<usize>,
    limit: f64,
}

/// The function that `script` says; its first number picks the space. With `narrow`, casts to bf16 are among its ops.
pub fn program(name: &str, script: &[u64], narrow: bool) -> Program {
    let mut numbers = script.iter().copied();
    let mut next = || numbers.next();
    let dims = SHAPES[next().unwrap_or(0) as usize % SHAPES.len()].to_vec();
    let mut func = Func::new(name);
    let (lead, last) = dims.split_at(dims.len() - 1);
    let shapes: [&[usize]; 8] = [&dims, &dims, &dims, last, last, lead, &[], &[last[0], last[0]]];
    let mut pool = vec![];
    for (i, shape) in shapes.into_iter().enumerate() {
        let ty = TensorType::new(DType::F32, shape);
        // Gradients of weights are added to in place.
        let role = if i == 2 { Role::Grad } else { Role::Input };
        pool.push((func.param(format!("{name}.p{i}"), ty, role, Loc::default()), 1.0));
    }
    let limit = if narrow { 30.0 } else { 1e3 };
    let mut m = Maker { b: Builder::new(&mut func, Loc::default()), pool, dims: dims.clone(), limit };
    let params = m.pool.len();
    while let (Some(op), Some(a), Some(c)) = (next(), next(), next()) {
        m.step(op, a as usize, c as usize, narrow);
    }
    // What nobody reads is a result, and now and then something that is read as well.
    let uses = m.b.func.use_counts();
    let made = m.pool.split_off(params);
    let mut scales = vec![];
    for (i, (v, scale)) in made.into_iter().enumerate() {
        let twice = m.b.func.results.iter().any(|r| r.value == v);
        if !twice && (uses[v.0 as usize] == 0 || i % 5 == 3) {
            m.b.func.result(format!("{name}.r{i}"), v);
            scales.push(scale);
        }
    }
    Program { func, scales, narrow }
}

impl Maker<'_> {
    fn ty(&self, v: ValueId) -> TensorType {
        self.b.ty(v)
    }

    /// Adds `v` to the pool; results too large to compare are left out of it.
    fn keep(&mut self, v: ValueId, scale: f64) {
        if scale <= self.limit {
            self.pool.push((v, scale));
        }
    }

    /// `v` with the type `ty`, if it can be cast and repeated to it.
    fn fit(&mut self, v: ValueId, ty: &TensorType) -> Option<ValueId> {
        let dims = self.ty(v).dims;
        let v = self.b.cast(v, ty.dtype);
        if dims == ty.dims {
            Some(v)
        } else if dims.len() < ty.dims.len() && ty.dims.ends_with(&dims) {
            Some(self.b.broadcast_like(v, self.wide(ty)?))
        } else if dims.len() < ty.dims.len() && ty.dims.starts_with(&dims) {
            Some(self.b.broadcast(v, &(0..dims.len()).collect::<Vec<_>>(), &ty.dims))
        } else {
            None
        }
    }

    /// Some value of type `ty`.
    fn wide(&self, ty: &TensorType) -> Option<ValueId> {
        self.pool.iter().map(|p| p.0).find(|v| self.ty(*v) == *ty)
    }

    fn step(&mut self, op: u64, a: usize, c: usize, narrow: bool) {
        // The latest values are the likeliest, so that chains form.
        let pick = |pool: &[(ValueId, f64)], k: usize| pool[pool.len() - 1 - (k * k / 7) % pool.len()];
        let (x, sx) = pick(&self.pool, a % 11);
        let (y, sy) = pick(&self.pool, c % 17);
        let ty = self.ty(x);
        let rank = ty.rank();
        match op % 32 {
            k @ 0..=8 => {
                let f = [
                    Unary::Neg,
                    Unary::Tanh,
                    Unary::Sigmoid,
                    Unary::Silu,
                    Unary::SiluGrad,
                    Unary::Gelu,
                    Unary::GeluGrad,
                    Unary::Square,
                    Unary::Exp,
                ][k as usize];
                let scale = match f {
                    Unary::Square => 2.0 * sx * sx,
                    Unary::Exp => sx.exp() * sx.max(1.0),
                    _ => 1.2 * sx.max(1.0),
                };
                if scale <= self.limit {
                    let v = self.b.unary(f, x);
                    self.keep(v, scale);
                }
            }
            // Functions of positive numbers.
            9 => {
                let f = [Unary::Log, Unary::Sqrt, Unary::Rsqrt, Unary::Recip][c % 4];
                if sx <= 8.0 {
                    let square = self.b.unary(Unary::Square, x);
                    let some = self.b.constant(0.5, ty);
                    let positive = self.b.add(square, some);
                    let v = self.b.unary(f, positive);
                    self.keep(v, 4.0 * sx.max(1.0) * sx.max(1.0));
                }
            }
            k @ 10..=16 => {
                let Some(y) = self.fit(y, &ty) else { return };
                let f = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min, Binary::Add, Binary::Mul]
                    [k as usize - 10];
                let scale = if f == Binary::Mul { sx.max(1.0) * sy.max(1.0) } else { sx + sy };
                if scale <= self.limit {
                    let v = if c.is_multiple_of(2) { self.b.binary(f, x, y) } else { self.b.binary(f, y, x) };
                    self.keep(v, scale);
                }
            }
            // What the rules look for.
            17 => {
                let sigmoid = self.b.unary(Unary::Sigmoid, x);
                let v = self.b.mul(x, sigmoid);
                self.keep(v, 1.2 * sx.max(1.0));
            }
            18 => {
                let value = [0.0, 1.0, -1.0, 0.25][c % 4];
                let k = self.b.constant(value, ty);
                let f = [Binary::Add, Binary::Mul, Binary::Sub][a % 3];
                let v = self.b.binary(f, x, k);
                self.keep(v, sx + 1.0);
            }
            19 => {
                let minus = self.b.unary(Unary::Neg, x);
                let back = self.b.unary(Unary::Neg, minus);
                self.keep(minus, sx);
                self.keep(back, sx);
            }
            k @ 20..=21 if rank > 0 => {
                let kind = if k == 20 { ReduceKind::Sum } else { ReduceKind::Max };
                let at = c % rank;
                let over: Vec<usize> = match a % 4 {
                    0 => vec![rank - 1],
                    1 => (0..rank - 1).collect(),
                    2 => (at..rank).collect(),
                    _ => vec![at],
                };
                let n: usize = over.iter().map(|d| ty.dims[*d]).product();
                let scale = if kind == ReduceKind::Sum { sx * n as f64 } else { sx };
                if scale <= self.limit && !over.is_empty() {
                    let v = self.b.reduce(kind, x, &over);
                    self.keep(v, scale);
                }
            }
            22 => {
                let full = TensorType::new(ty.dtype, self.dims.clone());
                let Some(v) = self.fit(x, &full) else { return };
                self.keep(v, sx);
            }
            k @ 23..=25 if ty.dims.last() == self.dims.last() => self.norm(k, (x, sx), (y, sy), &ty),
            26 if ty.dims.last() == self.dims.last() && rank > 1 => self.product((x, sx), c),
            27 => {
                let n = ty.elements();
                let new = match c % 3 {
                    0 => vec![n],
                    1 if n.is_multiple_of(8) => vec![n / 8, 8],
                    _ => vec![1, n],
                };
                let v = self.b.reshape(x, &new);
                let v = if a.is_multiple_of(2) {
                    let bent = self.b.unary(Unary::Tanh, v);
                    self.b.reshape(bent, &ty.dims)
                } else {
                    self.b.reshape(v, &ty.dims)
                };
                self.keep(v, 1.2 * sx.max(1.0));
            }
            28 if rank > 1 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 1, c % (rank - 1));
                let v = self.b.many(Op::Transpose { perm: perm.clone() }, &[x])[0];
                let v = if a.is_multiple_of(2) { self.b.many(Op::Transpose { perm }, &[v])[0] } else { v };
                self.keep(v, sx);
            }
            29 if rank > 0 => {
                let (dim, len) = (c % rank, ty.dims[c % rank]);
                // Always at the same place: the device refuses plans in which views of one value overlap in part.
                let cut = len / 2;
                if cut > 0 {
                    let (left, right) = (self.b.slice(x, dim, 0, cut), self.b.slice(x, dim, cut, len - cut));
                    let bent = self.b.unary(Unary::Tanh, right);
                    let v = self.b.many(Op::Concat { dim }, &[left, bent])[0];
                    self.keep(v, sx.max(1.0));
                }
            }
            30..=31 if narrow => {
                let to = if ty.dtype == DType::F32 { DType::BF16 } else { DType::F32 };
                let v = self.b.cast(x, to);
                self.keep(v, sx);
            }
            _ => {}
        }
    }

    fn norm(&mut self, kind: u64, (x, sx): (ValueId, f64), (y, sy): (ValueId, f64), ty: &TensorType) {
        let n = ty.dims.last().copied().unwrap_or(1);
        let row = TensorType::new(ty.dtype, [n]);
        let gain = self.wide(&row).or_else(|| self.wide(&row.with_dtype(DType::F32)));
        let Some(gain) = gain else { return };
        let gain = self.b.cast(gain, ty.dtype);
        let scale = 8.0 * sx.max(1.0) * sy.max(1.0);
        let rows = ty.elements() as f64 / n as f64;
        let (op, with_dy) = match (kind, sy.to_bits() % 2) {
            (23, _) => (Op::RmsNorm { eps: NORM_EPS }, false),
            (24, 0) => (Op::LayerNormGrad { eps: NORM_EPS }, true),
            (24, _) => (Op::RmsNormGrad { eps: NORM_EPS }, true),
            _ => (Op::LayerNorm { eps: NORM_EPS }, false),
        };
        let last = match (with_dy, &op) {
            (true, _) => self.fit(y, ty),
            (false, Op::LayerNorm { .. }) => Some(gain),
            _ => None,
        };
        if scale * rows > self.limit || with_dy && last.is_none() {
            return;
        }
        let ins: Vec<ValueId> = [x, gain].into_iter().chain(last).collect();
        for (i, v) in self.b.many(op, &ins).into_iter().enumerate() {
            self.keep(v, if i == 0 { scale } else { scale * rows });
        }
    }

    /// A linear layer on the last dim, in one of the ways a matrix can lie, plain or added to what is there.
    fn product(&mut self, (x, sx): (ValueId, f64), way: usize) {
        let ty = self.ty(x);
        let n = ty.dims[ty.rank() - 1];
        if sx * n as f64 > self.limit {
            return;
        }
        let square = self.pool.iter().map(|p| p.0).find(|v| self.ty(*v).dims == [n, n]);
        let Some(w) = square else { return };
        let mut w = self.b.cast(w, ty.dtype);
        if way.is_multiple_of(3) {
            w = self.b.many(Op::Transpose { perm: vec![1, 0] }, &[w])[0];
        }
        let lead: String = ('a'..).take(ty.rank() - 1).collect();
        let spec = if way.is_multiple_of(2) { format!("{lead}y,zy->{lead}z") } else { format!("{lead}y,yz->{lead}z") };
        let v = self.b.einsum(&spec, x, w);
        let scale = sx * n as f64;
        let v = match self.pool.iter().find(|p| self.ty(p.0) == ty) {
            Some((other, more)) if way % 5 == 1 && scale + more <= self.limit => {
                let (other, scale) = (*other, scale + more);
                let sum = self.b.add(other, v);
                return self.keep(sum, scale);
            }
            _ => v,
        };
        self.keep(v, scale);
    }
}

/// Arguments of `func` in [−1, 1).
pub fn arguments(func: &Func, seed: u64) -> Vec<(String, Tensor)> {
    let mut draw = Draw(seed);
    let one = |p: &athanor_ir::Param| {
        let ty = func.ty(p.value).clone();
        let data: Vec<f64> = (0..ty.elements()).map(|_| draw.unit()).collect();
        (p.name.clone(), Tensor::new(ty, &data))
    };
    func.params.iter().map(one).collect()
}
