//! Muon: the momentum of a matrix, orthogonalised by Newton and Schulz's iteration.

use super::site::{Site, Step};
use super::{BAD_RULE, Weight, adam};
use athanor_ir::optimizer::{MuonSpec, MuonWeight};
use athanor_ir::{DType, Diagnostic, Op, ReduceKind, Result, TensorType, Unary, ValueId};

fn taken<'a>(spec: &'a MuonSpec, name: &str) -> Option<&'a MuonWeight> {
    spec.weights.iter().find(|w| w.name == name)
}

/// The momentum of the weights that Muon takes, AdamW's moments for the rest.
pub(super) fn states(spec: &MuonSpec, w: &Weight<'_>) -> Vec<(&'static str, TensorType)> {
    match taken(spec, w.name) {
        Some(_) => vec![("muon_m.", w.ty.with_dtype(DType::F32))],
        None => adam::moments("adam_m.", "adam_v.", w),
    }
}

/// See [`MuonSpec`].
///
/// # Errors
/// [`BAD_RULE`] if the weight is no matrix or its rows are no whole number of periods.
pub(super) fn step(spec: &MuonSpec, s: &mut Site<'_, '_>) -> Result<Step> {
    let Some(weight) = taken(spec, s.name) else { return Ok(adam::adamw(&spec.adamw, s)) };
    let dims = s.b.ty(s.p).dims;
    let period: usize = weight.parts.iter().map(|p| p.rows).sum();
    let fits = dims.len() >= 2 && period > 0 && dims[dims.len() - 2].is_multiple_of(period);
    if !fits {
        let text = format!("Muon cannot take {:?} of dims {dims:?} in parts of {period} rows", s.name);
        return Diagnostic::error(&BAD_RULE, text).help("leave the weight to AdamW, or correct its parts").err();
    }
    let g = s.gradient();
    let old = s.times(s.states[0], spec.momentum);
    let m = s.b.add(old, g);
    let ahead = if spec.nesterov {
        let more = s.times(m, spec.momentum);
        s.b.add(g, more)
    } else {
        m
    };
    let update = in_parts(spec, weight, s, ahead, &dims);
    let lr = s.input("lr");
    let move_by = s.scaled(update, lr);
    let p = s.shrunk(if s.decays { spec.adamw.weight_decay } else { 0.0 });
    let p = s.sub(p, move_by);
    Ok(s.step(p, vec![m]))
}

/// The orthogonalised and scaled `x` in f32, part by part.
fn in_parts(spec: &MuonSpec, weight: &MuonWeight, s: &mut Site<'_, '_>, x: ValueId, dims: &[usize]) -> ValueId {
    let [lead @ .., rows, cols] = dims else { return x };
    let batch: usize = lead.iter().product();
    // Experts are a batch of matrices, a plain weight is one.
    let matrix = |rows: usize| if lead.is_empty() { vec![rows, *cols] } else { vec![batch, rows, *cols] };
    if let [whole] = &weight.parts[..]
        && whole.rows == *rows
    {
        let flat = s.b.reshape(x, &matrix(*rows));
        let y = orthogonal(spec, s, flat);
        let y = s.times(y, whole.scale);
        return s.b.reshape(y, dims);
    }
    let period: usize = weight.parts.iter().map(|p| p.rows).sum();
    let repeats = rows / period;
    let split = s.b.reshape(x, &[batch, repeats, period, *cols]);
    let mut start = 0;
    let mut done = vec![];
    for part in &weight.parts {
        let own = s.b.slice(split, 2, start, part.rows);
        start += part.rows;
        let flat = s.b.reshape(own, &matrix(repeats * part.rows));
        let y = orthogonal(spec, s, flat);
        let y = s.times(y, part.scale);
        done.push(s.b.reshape(y, &[batch, repeats, part.rows, *cols]));
    }
    let joined = if done.len() == 1 { done[0] } else { s.b.many(Op::Concat { dim: 2 }, &done)[0] };
    s.b.reshape(joined, dims)
}

/// The nearest semi-orthogonal matrix to `x` (f32, `[m, n]` or `[e, m, n]`), about, in f32.
///
/// Operands of products are bf16, their sums and the polynomial f32. The smaller of xxᵀ and xᵀx is formed: a tall x is
/// multiplied from the right, which is the same as turning it around first.
fn orthogonal(spec: &MuonSpec, s: &mut Site<'_, '_>, x: ValueId) -> ValueId {
    let dims = s.b.ty(x).dims;
    let (m, n) = (dims[dims.len() - 2], dims[dims.len() - 1]);
    let e = if dims.len() == 3 { "e" } else { "" };
    let square = if m <= n { format!("{e}ij,{e}kj->{e}ik") } else { format!("{e}ji,{e}jk->{e}ik") };
    let plain = format!("{e}ij,{e}jk->{e}ik");
    let mut x = unit_norm(spec, s, x);
    for [a, b, c] in &spec.coefficients {
        let gram = product(s, &square, x, x, DType::BF16);
        let twice = product(s, &plain, gram, gram, DType::F32);
        let gram32 = s.f32(gram);
        let (first, second) = (s.times(gram32, *b), s.times(twice, *c));
        let sum = s.b.add(first, second);
        let polynomial = s.b.cast(sum, DType::BF16);
        let turned = if m <= n {
            product(s, &plain, polynomial, x, DType::F32)
        } else {
            product(s, &plain, x, polynomial, DType::F32)
        };
        let x32 = s.f32(x);
        let kept = s.times(x32, *a);
        let sum = s.b.add(kept, turned);
        x = s.b.cast(sum, DType::BF16);
    }
    s.f32(x)
}

/// The einsum of bf16 operands, in `dtype`.
fn product(s: &mut Site<'_, '_>, spec: &str, a: ValueId, b: ValueId, dtype: DType) -> ValueId {
    let op = Op::Einsum { spec: spec.to_owned() };
    let dims = match athanor_ir::signature::einsum_dims(spec, &s.b.ty(a).dims, &s.b.ty(b).dims) {
        Ok(dims) => dims,
        Err(e) => panic!("ill-typed einsum {spec}: {e:?}"),
    };
    let loc = s.b.loc.clone();
    s.b.func.push(op, &[a, b], vec![TensorType::new(dtype, dims)], &loc)[0]
}

/// `x/(‖x‖ + norm_eps)` matrix by matrix, in bf16; the norm is that of x in bf16.
fn unit_norm(spec: &MuonSpec, s: &mut Site<'_, '_>, x: ValueId) -> ValueId {
    let narrow = s.b.cast(x, DType::BF16);
    let x = s.f32(narrow);
    let dims = s.b.ty(x).dims;
    let norm = if dims.len() == 3 {
        let square = s.b.unary(Unary::Square, x);
        let sum = s.b.reduce(ReduceKind::Sum, square, &[1, 2]);
        s.sqrt(sum)
    } else {
        s.norm(x)
    };
    let norm = s.plus(norm, spec.norm_eps);
    let lead: Vec<usize> = (0..dims.len() - 2).collect();
    let norm = s.b.broadcast(norm, &lead, &dims);
    let x = s.div(x, norm);
    s.b.cast(x, DType::BF16)
}
