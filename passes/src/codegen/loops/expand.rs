//! Composite row ops as element-wise ops, reductions and broadcasts, so that one generator fuses them all.

use athanor_ir::func::{Builder, Func, ValueId};
use athanor_ir::op::{Binary, F64, Op, ReduceKind, Unary};
use athanor_ir::types::DType;
use std::collections::HashMap;

/// `func` with norms, their gradients and the optimizer step written out; arithmetic on rows is in f32.
pub fn expand(func: &Func) -> Func {
    let mut out = Func::new(func.name.clone());
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for p in &func.params {
        let v = out.param(p.name.clone(), func.ty(p.value).clone(), p.role.clone(), p.loc.clone());
        map.insert(p.value, v);
    }
    for node in &func.nodes {
        let ins: Vec<ValueId> = node.inputs.iter().map(|v| map[v]).collect();
        let types: Vec<_> = node.outputs.iter().map(|v| func.ty(*v).clone()).collect();
        let mut b = Builder::new(&mut out, node.loc.clone());
        let results = match &node.op {
            Op::RmsNorm { eps } => rms_norm(&mut b, &ins, *eps),
            Op::RmsNormGrad { eps } => rms_norm_grad(&mut b, &ins, *eps),
            Op::LayerNorm { eps } => layer_norm(&mut b, &ins, *eps),
            Op::LayerNormGrad { eps } => layer_norm_grad(&mut b, &ins, *eps),
            Op::AdamW { beta1, beta2, eps, decay } => adam_w(&mut b, &ins, [beta1.0, beta2.0, eps.0, decay.0]),
            op => b.func.push(op.clone(), &ins, types.clone(), &node.loc),
        };
        let results: Vec<ValueId> = results.iter().zip(&types).map(|(r, t)| b.cast(*r, t.dtype)).collect();
        map.extend(node.outputs.iter().copied().zip(results));
    }
    for r in &func.results {
        out.result(r.name.clone(), map[&r.value]);
    }
    out
}

/// Row arithmetic on `x`, whose last dim is the row.
struct Rows<'b, 'f> {
    b: &'b mut Builder<'f>,
    dims: Vec<usize>,
}

impl<'b, 'f> Rows<'b, 'f> {
    fn new(b: &'b mut Builder<'f>, x: ValueId) -> Self {
        let dims = b.ty(x).dims;
        Self { b, dims }
    }

    fn last(&self) -> usize {
        self.dims.len() - 1
    }

    /// Mean over the row.
    fn mean(&mut self, x: ValueId) -> ValueId {
        let last = self.last();
        let sum = self.b.reduce(ReduceKind::Sum, x, &[last]);
        let ty = self.b.ty(sum);
        let scale = self.b.constant(1.0 / self.dims[last] as f64, ty);
        self.b.mul(sum, scale)
    }

    /// A value per row, at every element of the row.
    fn spread(&mut self, x: ValueId) -> ValueId {
        let lead: Vec<usize> = (0..self.last()).collect();
        let to = self.dims.clone();
        self.b.broadcast(x, &lead, &to)
    }

    /// A value per column, in every row, in f32.
    fn gain(&mut self, g: ValueId) -> ValueId {
        let g = self.b.cast(g, DType::F32);
        let (last, to) = (self.last(), self.dims.clone());
        self.b.broadcast(g, &[last], &to)
    }

    /// Sum over the rows, per column.
    fn columns(&mut self, x: ValueId) -> ValueId {
        let lead: Vec<usize> = (0..self.last()).collect();
        self.b.reduce(ReduceKind::Sum, x, &lead)
    }

    /// 1/√(x + eps) of a value per row, at every element.
    fn inverse_root(&mut self, x: ValueId, eps: F64) -> ValueId {
        let ty = self.b.ty(x);
        let eps = self.b.constant(eps.0, ty);
        let sum = self.b.add(x, eps);
        let root = self.b.unary(Unary::Rsqrt, sum);
        self.spread(root)
    }

    fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.b.binary(Binary::Sub, a, b)
    }

    fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.b.mul(a, b)
    }
}

fn rms_norm(b: &mut Builder<'_>, ins: &[ValueId], eps: F64) -> Vec<ValueId> {
    let x = b.cast(ins[0], DType::F32);
    let mut r = Rows::new(b, x);
    let square = r.mul(x, x);
    let mean = r.mean(square);
    let inv = r.inverse_root(mean, eps);
    let normed = r.mul(x, inv);
    let gain = r.gain(ins[1]);
    vec![r.mul(normed, gain)]
}

/// With n = x·inv and w = dy·gain: dx = inv·(w − n·mean(w·n)), dgain = Σ dy·n.
fn rms_norm_grad(b: &mut Builder<'_>, ins: &[ValueId], eps: F64) -> Vec<ValueId> {
    let (x, dy) = (b.cast(ins[0], DType::F32), b.cast(ins[2], DType::F32));
    let mut r = Rows::new(b, x);
    let square = r.mul(x, x);
    let mean = r.mean(square);
    let inv = r.inverse_root(mean, eps);
    let n = r.mul(x, inv);
    let gain = r.gain(ins[1]);
    let w = r.mul(dy, gain);
    let wn = r.mul(w, n);
    let along = r.mean(wn);
    let along = r.spread(along);
    let back = r.mul(n, along);
    let rest = r.sub(w, back);
    let dx = r.mul(rest, inv);
    let per_row = r.mul(dy, n);
    vec![dx, r.columns(per_row)]
}

/// (x − mean)·inv at every element, and inv.
fn standardise(r: &mut Rows<'_, '_>, x: ValueId, eps: F64) -> (ValueId, ValueId) {
    let mean = r.mean(x);
    let mean = r.spread(mean);
    let centred = r.sub(x, mean);
    let square = r.mul(centred, centred);
    let var = r.mean(square);
    let inv = r.inverse_root(var, eps);
    (r.mul(centred, inv), inv)
}

fn layer_norm(b: &mut Builder<'_>, ins: &[ValueId], eps: F64) -> Vec<ValueId> {
    let x = b.cast(ins[0], DType::F32);
    let mut r = Rows::new(b, x);
    let (n, _) = standardise(&mut r, x, eps);
    let (gain, bias) = (r.gain(ins[1]), r.gain(ins[2]));
    let scaled = r.mul(n, gain);
    vec![b.add(scaled, bias)]
}

/// With w = dy·gain: dx = inv·(w − mean(w) − n·mean(w·n)), dgain = Σ dy·n, dbias = Σ dy.
fn layer_norm_grad(b: &mut Builder<'_>, ins: &[ValueId], eps: F64) -> Vec<ValueId> {
    let (x, dy) = (b.cast(ins[0], DType::F32), b.cast(ins[2], DType::F32));
    let mut r = Rows::new(b, x);
    let (n, inv) = standardise(&mut r, x, eps);
    let gain = r.gain(ins[1]);
    let w = r.mul(dy, gain);
    let mean_w = r.mean(w);
    let mean_w = r.spread(mean_w);
    let wn = r.mul(w, n);
    let along = r.mean(wn);
    let along = r.spread(along);
    let back = r.mul(n, along);
    let rest = r.sub(w, mean_w);
    let rest = r.sub(rest, back);
    let dx = r.mul(rest, inv);
    let per_row = r.mul(dy, n);
    vec![dx, r.columns(per_row), r.columns(dy)]
}

fn adam_w(b: &mut Builder<'_>, ins: &[ValueId], [beta1, beta2, eps, decay]: [f64; 4]) -> Vec<ValueId> {
    let [p, g, m, v, lr, step_size, v_scale, g_scale] = *ins else { return vec![] };
    let ty = b.ty(p).with_dtype(DType::F32);
    let f32s = |b: &mut Builder<'_>, x: ValueId| b.cast(x, DType::F32);
    let (p, g, m, v) = (f32s(b, p), f32s(b, g), f32s(b, m), f32s(b, v));
    let spread = |b: &mut Builder<'_>, x: ValueId| {
        let x = b.cast(x, DType::F32);
        b.broadcast(x, &[], &ty.dims)
    };
    let (lr, step_size) = (spread(b, lr), spread(b, step_size));
    let (v_scale, g_scale) = (spread(b, v_scale), spread(b, g_scale));
    let scaled = |b: &mut Builder<'_>, x: ValueId, by: f64| {
        let by = b.constant(by, ty.clone());
        b.mul(x, by)
    };
    let g = b.mul(g, g_scale);
    let (m_old, m_new) = (scaled(b, m, beta1), scaled(b, g, 1.0 - beta1));
    let m = b.add(m_old, m_new);
    let gg = b.mul(g, g);
    let (v_old, v_new) = (scaled(b, v, beta2), scaled(b, gg, 1.0 - beta2));
    let v = b.add(v_old, v_new);
    let unbiased = b.mul(v, v_scale);
    let root = b.unary(Unary::Sqrt, unbiased);
    let eps = b.constant(eps, ty.clone());
    let below = b.add(root, eps);
    let up = b.mul(step_size, m);
    let step = b.binary(Binary::Div, up, below);
    let shrink = scaled(b, p, decay);
    let shrink = b.mul(shrink, lr);
    let p = b.binary(Binary::Sub, p, shrink);
    vec![b.binary(Binary::Sub, p, step), m, v]
}
