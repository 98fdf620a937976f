//! Ops that read integer ids: embedding and cross entropy.

use super::tensor::Array;

/// The ids as row numbers below `rows`.
pub(super) fn rows_of(ids: &Array, rows: usize) -> Result<Vec<usize>, String> {
    let row = |(at, id): (usize, &f64)| {
        let fits = *id >= 0.0 && (*id as usize) < rows;
        if fits { Ok(*id as usize) } else { Err(format!("id {id} at element {at} is not below {rows}")) }
    };
    ids.data.iter().enumerate().map(row).collect()
}

/// The ids as row numbers where they are below `rows`.
fn rows_in(ids: &Array, rows: usize) -> impl Iterator<Item = Option<usize>> {
    ids.data.iter().map(move |id| (*id >= 0.0 && *id < rows as f64).then_some(*id as usize))
}

pub(super) fn embed(ids: &Array, table: &Array) -> Vec<f64> {
    let h = table.dims[1];
    let row = |r: Option<usize>| r.map_or_else(|| vec![0.0; h], |r| table.data[r * h..(r + 1) * h].to_vec());
    rows_in(ids, table.dims[0]).flat_map(row).collect()
}

pub(super) fn embed_grad(ids: &Array, dy: &Array, vocab: usize) -> Vec<f64> {
    let (_, h) = dy.rows();
    let mut out = vec![0.0; vocab * h];
    for (row, dy) in rows_in(ids, vocab).zip(dy.data.chunks_exact(h)) {
        if let Some(row) = row {
            out[row * h..(row + 1) * h].iter_mut().zip(dy).for_each(|(o, d)| *o += d);
        }
    }
    out
}

fn log_sum(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// Logit of the id, and log of the sum of exponentials, of each row.
pub(super) fn part_entropy(logits: &Array, ids: &Array) -> Vec<Vec<f64>> {
    let (_, v) = logits.rows();
    let rows = || logits.data.chunks_exact(v);
    let logit = rows().zip(rows_in(ids, v)).map(|(row, id)| id.map_or(0.0, |id| row[id])).collect();
    vec![logit, rows().map(log_sum).collect()]
}

pub(super) fn part_entropy_grad(ins: &[Array]) -> Vec<f64> {
    let (logits, ids, lse, dloss) = (&ins[0], &ins[1], &ins[2].data, &ins[3].data);
    let (_, v) = logits.rows();
    let mut out = Vec::with_capacity(logits.data.len());
    for (i, (row, id)) in logits.data.chunks_exact(v).zip(rows_in(ids, v)).enumerate() {
        out.extend(row.iter().map(|x| (x - lse[i]).exp() * dloss[i]));
        if let Some(id) = id {
            out[i * v + id] -= dloss[i];
        }
    }
    out
}

/// Loss and log of the sum of exponentials of each row.
pub(super) fn cross_entropy(logits: &Array, labels: &Array) -> Result<Vec<Vec<f64>>, String> {
    let (n, v) = logits.rows();
    let (mut loss, mut lse) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for (row, label) in logits.data.chunks_exact(v).zip(rows_of(labels, v)?) {
        let total = log_sum(row);
        lse.push(total);
        loss.push(total - row[label]);
    }
    Ok(vec![loss, lse])
}

pub(super) fn cross_entropy_grad(ins: &[Array]) -> Result<Vec<f64>, String> {
    let (logits, labels, lse, dloss) = (&ins[0], &ins[1], &ins[2].data, &ins[3].data);
    let (_, v) = logits.rows();
    let mut out = Vec::with_capacity(logits.data.len());
    for (i, (row, label)) in logits.data.chunks_exact(v).zip(rows_of(labels, v)?).enumerate() {
        out.extend(row.iter().map(|x| (x - lse[i]).exp() * dloss[i]));
        out[i * v + label] -= dloss[i];
    }
    Ok(out)
}
