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

pub(super) fn embed(ids: &Array, table: &Array) -> Result<Vec<f64>, String> {
    let h = table.dims[1];
    let rows = rows_of(ids, table.dims[0])?;
    Ok(rows.into_iter().flat_map(|r| &table.data[r * h..(r + 1) * h]).copied().collect())
}

pub(super) fn embed_grad(ids: &Array, dy: &Array, vocab: usize) -> Result<Vec<f64>, String> {
    let (_, h) = dy.rows();
    let mut out = vec![0.0; vocab * h];
    for (row, dy) in rows_of(ids, vocab)?.into_iter().zip(dy.data.chunks_exact(h)) {
        out[row * h..(row + 1) * h].iter_mut().zip(dy).for_each(|(o, d)| *o += d);
    }
    Ok(out)
}

/// Loss and log of the sum of exponentials of each row.
pub(super) fn cross_entropy(logits: &Array, labels: &Array) -> Result<Vec<Vec<f64>>, String> {
    let (n, v) = logits.rows();
    let (mut loss, mut lse) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for (row, label) in logits.data.chunks_exact(v).zip(rows_of(labels, v)?) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
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
