//! CAME: second moments as products of row and column means, and steps that are smaller where updates disagree.

use super::Weight;
use super::site::{Site, Step};
use athanor_ir::optimizer::CameSpec;
use athanor_ir::{Binary, DType, TensorType, Unary, ValueId};

/// Row and column means of squares and of instabilities for matrices, whole second moments for the rest; leading dims of a
/// matrix are matrices of their own.
pub(super) fn states(w: &Weight<'_>) -> Vec<(&'static str, TensorType)> {
    let whole = w.ty.with_dtype(DType::F32);
    let Some(last) = whole.rank().checked_sub(2) else {
        return vec![("exp_avg.", whole.clone()), ("exp_avg_sq_", whole)];
    };
    let mut rows = whole.dims.clone();
    let columns = rows.pop();
    let mut cols = rows.clone();
    cols.truncate(last);
    cols.extend(columns);
    let (rows, cols) = (whole.with_dims(rows), whole.with_dims(cols));
    vec![
        ("exp_avg.", whole),
        ("exp_avg_sq_row_", rows.clone()),
        ("exp_avg_sq_col_", cols.clone()),
        ("exp_avg_insta_row_", rows),
        ("exp_avg_insta_col_", cols),
    ]
}

/// With `q = g² + eps₀` and M(q) its factored running mean (of rate β₂ = 1 − t^−d): `u = g/√M(q)`, divided by
/// max(1, rms(u)/clip); `m ← β₁·m + (1−β₁)·u`; with `(u − m)² + eps₂` and its running mean of rate β₃:
/// `p ← p − lr·decay·p − lr·m/√M((u − m)² + eps₂)`. Vectors keep whole means, and step along m.
pub(super) fn step(spec: &CameSpec, s: &mut Site<'_, '_>) -> Step {
    let g = s.gradient();
    let beta2 = s.input("beta2");
    let square = s.b.mul(g, g);
    let square = s.plus(square, spec.eps[0]);
    let factored = s.states.len() > 2;
    let mut states = vec![];
    let inverse = if factored {
        let (row, col) = means(s, square);
        let row = moved(s, s.states[1], row, beta2);
        let col = moved(s, s.states[2], col, beta2);
        states.extend([row, col]);
        inverse_root(s, row, col, g)
    } else {
        let v = moved(s, s.states[1], square, beta2);
        states.push(v);
        s.b.unary(Unary::Rsqrt, v)
    };
    let u = s.b.mul(inverse, g);
    let u = clipped(s, u, spec.clip_threshold);
    let m = s.average(s.states[0], u, spec.beta1);
    let mut along = m;
    if factored {
        let apart = s.sub(u, m);
        let apart = s.b.mul(apart, apart);
        let apart = s.plus(apart, spec.eps[2]);
        let (row, col) = means(s, apart);
        let row = s.average(s.states[3], row, spec.beta3);
        let col = s.average(s.states[4], col, spec.beta3);
        states.extend([row, col]);
        let confidence = inverse_root(s, row, col, m);
        along = s.b.mul(confidence, m);
    }
    let p = s.weight();
    let mut rate = s.input("lr");
    if spec.scale_parameter {
        let size = rms(s, p);
        let ty = s.b.ty(size);
        let least = s.b.constant(spec.eps[1], ty);
        let size = s.b.binary(Binary::Max, size, least);
        rate = s.b.mul(rate, size);
    }
    let mut next = p;
    if spec.weight_decay != 0.0 {
        let part = s.times(rate, spec.weight_decay);
        let gone = s.scaled(p, part);
        next = s.sub(next, gone);
    }
    let move_by = s.scaled(along, rate);
    let next = s.sub(next, move_by);
    states.insert(0, m);
    s.step(next, states)
}

/// Means of `x` over its last dim and over the one before.
fn means(s: &mut Site<'_, '_>, x: ValueId) -> (ValueId, ValueId) {
    let last = s.b.ty(x).rank() - 1;
    (s.mean(x, &[last]), s.mean(x, &[last - 1]))
}

/// rate·old + (1−rate)·new for a scalar value `rate`.
fn moved(s: &mut Site<'_, '_>, old: ValueId, new: ValueId, rate: ValueId) -> ValueId {
    let negated = s.times(rate, -1.0);
    let rest = s.plus(negated, 1.0);
    let (old, new) = (s.scaled(old, rate), s.scaled(new, rest));
    s.b.add(old, new)
}

/// 1/√(row/mean(row)) · 1/√col at every element of `like`.
fn inverse_root(s: &mut Site<'_, '_>, row: ValueId, col: ValueId, like: ValueId) -> ValueId {
    let dims = s.b.ty(like).dims;
    let last = dims.len() - 1;
    let mean = s.mean(row, &[last - 1]);
    let lead: Vec<usize> = (0..last - 1).collect();
    let mean = s.b.broadcast(mean, &lead, &dims[..last]);
    let row = s.div(row, mean);
    let row = s.b.unary(Unary::Rsqrt, row);
    let col = s.b.unary(Unary::Rsqrt, col);
    let rows: Vec<usize> = (0..last).collect();
    let cols: Vec<usize> = lead.into_iter().chain([last]).collect();
    let (row, col) = (s.b.broadcast(row, &rows, &dims), s.b.broadcast(col, &cols, &dims));
    s.b.mul(row, col)
}

/// Root of the mean square, an f32 scalar.
fn rms(s: &mut Site<'_, '_>, x: ValueId) -> ValueId {
    let count = s.b.ty(x).elements() as f64;
    let norm = s.norm(x);
    s.times(norm, 1.0 / count.sqrt())
}

/// `u` divided by max(1, rms(u)/threshold).
fn clipped(s: &mut Site<'_, '_>, u: ValueId, threshold: f64) -> ValueId {
    let size = rms(s, u);
    let over = s.times(size, 1.0 / threshold);
    let ty = s.b.ty(over);
    let one = s.b.constant(1.0, ty);
    let over = s.b.binary(Binary::Max, over, one);
    let below = s.spread(over, u);
    s.div(u, below)
}
