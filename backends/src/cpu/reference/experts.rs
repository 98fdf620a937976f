//! Ops that route tokens to experts.

use super::contraction::dot;
use super::loss::rows_of;
use super::tensor::{Array, rounded};
use athanor_ir::RouteMask;
use athanor_ir::experts::{GroupedForm, parse_grouped};
use std::cmp::Ordering;

/// How a router chooses.
pub(super) struct Choice {
    pub k: usize,
    pub groups: usize,
    pub group_k: usize,
    pub group_top: usize,
    pub mask: RouteMask,
}

/// Indices of `x` from the largest value to the smallest, the lower index first among equals.
fn ranked(x: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].partial_cmp(&x[*a]).unwrap_or(Ordering::Equal));
    order
}

pub(super) fn route(scores: &Array, bias: Option<&Array>, c: &Choice) -> Vec<f64> {
    let (_, e) = scores.rows();
    let per = e / c.groups;
    // A sum is rounded to the scores' dtype before it is compared, as where the choice is made of single ops: what is equal
    // then goes to the lower index.
    let sum = |a: f64, b: f64| rounded(scores.dtype, a + b);
    let mut out = vec![];
    for row in scores.data.chunks_exact(e) {
        let mut x: Vec<f64> = row.iter().enumerate().map(|(i, s)| sum(*s, bias.map_or(0.0, |b| b.data[i]))).collect();
        if c.groups > 1 {
            let best = |g: &[f64]| ranked(g).into_iter().take(c.group_top).fold(0.0, |a, i| sum(a, g[i]));
            let of_group: Vec<f64> = x.chunks_exact(per).map(best).collect();
            for g in ranked(&of_group).into_iter().skip(c.group_k) {
                x[g * per..(g + 1) * per].fill(match c.mask {
                    RouteMask::Zero => 0.0,
                    RouteMask::NegInf => f64::NEG_INFINITY,
                });
            }
        }
        out.extend(ranked(&x).into_iter().take(c.k).map(|i| i as f64));
    }
    out
}

pub(super) fn pick(x: &Array, ids: &Array) -> Result<Vec<f64>, String> {
    let ((_, n), (_, k)) = (x.rows(), ids.rows());
    Ok(rows_of(ids, n)?.into_iter().enumerate().map(|(slot, id)| x.data[slot / k * n + id]).collect())
}

pub(super) fn pick_grad(ids: &Array, dy: &Array, n: usize) -> Result<Vec<f64>, String> {
    let (tokens, k) = ids.rows();
    let mut out = vec![0.0; tokens * n];
    for (slot, id) in rows_of(ids, n)?.into_iter().enumerate() {
        out[slot / k * n + id] += dy.data[slot];
    }
    Ok(out)
}

pub(super) fn histogram(ids: &Array, bins: usize) -> Result<Vec<f64>, String> {
    let (lead, m) = ids.rows();
    let mut out = vec![0.0; lead * bins];
    for (at, id) in rows_of(ids, bins)?.into_iter().enumerate() {
        out[at / m * bins + id] += 1.0;
    }
    Ok(out)
}

pub(super) fn assign(
    ids: &Array,
    weights: Option<&Array>,
    experts: usize,
    capacity: usize,
) -> Result<Vec<Vec<f64>>, String> {
    let mut slots: Vec<Vec<usize>> = vec![vec![]; experts];
    for (slot, id) in rows_of(ids, experts)?.into_iter().enumerate() {
        slots[id].push(slot);
    }
    let mut rows = vec![-1.0; ids.data.len()];
    let mut spans = vec![];
    let mut next = 0;
    for mut of in slots {
        if capacity > 0 && of.len() > capacity {
            if let Some(w) = weights {
                // The heaviest stay, the earlier among equals, in their old order.
                of.sort_by(|a, b| w.data[*b].partial_cmp(&w.data[*a]).unwrap_or(Ordering::Equal));
            }
            of.truncate(capacity);
            of.sort_unstable();
        }
        spans.push(next as f64);
        for slot in of {
            rows[slot] = next as f64;
            next += 1;
        }
        spans.push(next as f64);
    }
    Ok(vec![rows, spans])
}

/// First row and row behind the last one of each expert of every rank, from spans [p, e, 2].
fn spans_of_ranks(spans: &Array) -> impl Iterator<Item = Vec<(usize, usize)>> {
    let of_rank = 2 * spans.dims[1];
    spans.data.chunks_exact(of_rank).map(|rank| rank.chunks_exact(2).map(|s| (s[0] as usize, s[1] as usize)).collect())
}

pub(super) fn rounds(spans: &Array, capacity: usize) -> f64 {
    let rows = spans_of_ranks(spans).map(|of| of[of.len() - 1].1.saturating_sub(of[0].0)).max().unwrap_or(0);
    rows.div_ceil(capacity).max(1) as f64
}

pub(super) fn portion(rows: &Array, spans: &Array, round: &Array, capacity: usize) -> Vec<Vec<f64>> {
    let none = spans.dims[1] as f64;
    let mut experts = vec![none; spans.dims[0] * capacity];
    // Places of the rows that go, by row.
    let mut places = vec![-1.0; rows.data.len()];
    for (rank, of) in spans_of_ranks(spans).enumerate() {
        let first = of[0].0 + round.data[0] as usize * capacity;
        for (expert, (start, end)) in of.into_iter().enumerate() {
            let end = end.min(first + capacity).min(rows.data.len());
            let start = start.max(first).min(end);
            for (row, to) in (start..end).zip(&mut places[start..end]) {
                let place = rank * capacity + row - first;
                *to = place as f64;
                experts[place] = expert as f64;
            }
        }
    }
    let place = |row: &f64| if *row < 0.0 { None } else { places.get(*row as usize) };
    let slots = rows.data.iter().map(|row| place(row).copied().unwrap_or(-1.0)).collect();
    vec![slots, experts]
}

/// (slot, row) of every slot that was not dropped.
fn kept(rows: &Array, n: usize) -> Result<Vec<(usize, usize)>, String> {
    let mut out = vec![];
    for (slot, row) in rows.data.iter().enumerate() {
        match *row {
            -1.0 => {}
            r if r >= 0.0 && (r as usize) < n => out.push((slot, r as usize)),
            r => return Err(format!("slot {slot} has row {r} of {n}")),
        }
    }
    Ok(out)
}

pub(super) fn dispatch(x: &Array, rows: &Array, weights: Option<&Array>, n: usize) -> Result<Vec<f64>, String> {
    let ((_, h), (_, k)) = (x.rows(), rows.rows());
    let mut out = vec![0.0; n * h];
    for (slot, row) in kept(rows, n)? {
        let w = weights.map_or(1.0, |w| w.data[slot]);
        let from = &x.data[slot / k * h..][..h];
        out[row * h..(row + 1) * h].iter_mut().zip(from).for_each(|(o, x)| *o = w * x);
    }
    Ok(out)
}

pub(super) fn combine(y: &Array, rows: &Array, weights: Option<&Array>) -> Result<Vec<f64>, String> {
    let ((n, h), (tokens, k)) = (y.rows(), rows.rows());
    let mut out = vec![0.0; tokens * h];
    for (slot, row) in kept(rows, n)? {
        let w = weights.map_or(1.0, |w| w.data[slot]);
        let from = &y.data[row * h..][..h];
        out[slot / k * h..][..h].iter_mut().zip(from).for_each(|(o, y)| *o += w * y);
    }
    Ok(out)
}

pub(super) fn combine_dot(y: &Array, rows: &Array, dout: &Array) -> Result<Vec<f64>, String> {
    let ((n, h), (_, k)) = (y.rows(), rows.rows());
    let mut out = vec![0.0; rows.data.len()];
    for (slot, row) in kept(rows, n)? {
        out[slot] = dot(&y.data[row * h..][..h], &dout.data[slot / k * h..][..h]);
    }
    Ok(out)
}

pub(super) fn grouped(spec: &str, ins: &[Array], elements: usize) -> Result<Vec<f64>, String> {
    let (form, [la, lb, lo]) = parse_grouped(spec)?;
    let (a, b) = (&ins[0], &ins[1]);
    let rows = a.dims[0];
    let spans = &ins[2].data;
    let (ends, _) = spans.as_chunks::<2>();
    let joined = ends.windows(2).all(|w| w[0][1] == w[1][0]);
    if !joined || spans[0] < 0.0 || ends.iter().any(|s| s[0] > s[1] || s[1] > rows as f64) {
        return Err(format!("spans {ends:?} do not follow one another in {rows} rows"));
    }
    let mut out = ins.get(3).map_or_else(|| vec![0.0; elements], |acc| acc.data.clone());
    for (e, run) in ends.iter().enumerate() {
        for r in run[0] as usize..run[1] as usize {
            match form {
                GroupedForm::Rows => {
                    let (k, n) = (a.dims[1], elements / rows);
                    let x = &a.data[r * k..][..k];
                    let w = &b.data[e * n * k..][..n * k];
                    for (j, y) in out[r * n..][..n].iter_mut().enumerate() {
                        // The matrix is [n, k], or [k, n] if the row's label comes first.
                        *y += if lb[2] == la[1] {
                            dot(x, &w[j * k..][..k])
                        } else {
                            x.iter().enumerate().map(|(i, x)| x * w[i * n + j]).sum()
                        };
                    }
                }
                GroupedForm::Sums => {
                    let (n, k) = (a.dims[1], b.dims[1]);
                    let (x, y) = (&a.data[r * n..][..n], &b.data[r * k..][..k]);
                    let w = &mut out[e * n * k..][..n * k];
                    for (i, x) in x.iter().enumerate() {
                        for (j, y) in y.iter().enumerate() {
                            w[if lo[1] == la[1] { i * k + j } else { j * n + i }] += x * y;
                        }
                    }
                }
            }
        }
    }
    Ok(out)
}
