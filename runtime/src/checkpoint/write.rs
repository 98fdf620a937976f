//! Writing the tensors of a naming, in one file or several with an index, piece by piece.

use super::elements::{Elements, ElementsMut, copy};
use super::file::write_header;
use super::mapping::{Stored, pieces};
use super::strided::Run;
use super::tensors::INDEX;
use athanor_ir::DType;
use athanor_ir::names::Copied;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

/// Files of a checkpoint are at most this large unless one tensor is larger: 5 GB, as Hugging Face's.
pub const DEFAULT_SHARD: u64 = 5_000_000_000;

/// Elements that are gathered at a time where that is cheap.
const PIECE: usize = 1 << 18;

/// Where the elements of weights come from.
pub trait Source {
    /// Type of the elements of weight `weight`.
    fn dtype(&self, weight: usize) -> DType;

    /// Elements `range` of weight `weight`.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&self, weight: usize, range: Range<usize>) -> io::Result<Cow<'_, [u8]>>;

    /// Whether reading many small ranges takes no longer than reading the whole.
    fn in_pieces(&self, weight: usize) -> bool;

    /// Whether reading costs nothing, whatever the range.
    fn in_memory(&self) -> bool;

    /// Is told how many bytes more are written.
    fn wrote(&self, _bytes: u64) {}
}

/// A tensor to write: name, and what it holds.
type Named<'a> = (&'a str, &'a Stored);

/// Writes `stored` and the copies that are to be written to `dir`: to one file called `whole` if it is no larger than `limit`
/// bytes, else to `model-00001-of-0000N.safetensors` and the others with their index. The names of the files.
///
/// # Errors
/// Of the file system and of `source`.
pub fn write(
    source: &dyn Source,
    stored: &[Stored],
    copies: &[Copied],
    dir: &Path,
    whole: &str,
    limit: u64,
) -> io::Result<Vec<String>> {
    let by_name: BTreeMap<&str, &Stored> = stored.iter().map(|s| (s.name.as_str(), s)).collect();
    let copied = copies.iter().filter(|c| c.beside.as_ref().is_some_and(|b| by_name.contains_key(b.as_str())));
    let copied = copied.filter_map(|c| by_name.get(c.of.as_str()).map(|s| (c.theirs.as_str(), *s)));
    let all: Vec<Named<'_>> = stored.iter().map(|s| (s.name.as_str(), s)).chain(copied).collect();
    let mut shards: Vec<Vec<Named<'_>>> = vec![vec![]];
    let (mut here, mut total) = (0, 0);
    for (name, s) in all {
        let bytes = (s.elements() * dtype(source, s).bytes()) as u64;
        if here > 0 && here + bytes > limit {
            shards.push(vec![]);
            here = 0;
        }
        here += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push((name, s));
        }
    }
    if let [one] = shards.as_slice() {
        write_file(source, one, &dir.join(whole))?;
        return Ok(vec![whole.to_owned()]);
    }
    let count = shards.len();
    let mut files = vec![];
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        write_file(source, shard, &dir.join(&file))?;
        weight_map.extend(shard.iter().map(|(name, _)| (*name, file.clone())));
        files.push(file);
    }
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    let mut out = BufWriter::new(File::create(dir.join(INDEX))?);
    serde_json::to_writer_pretty(&mut out, &index)?;
    out.write_all(b"\n")?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(files)
}

fn dtype(source: &dyn Source, s: &Stored) -> DType {
    // A tensor joined of several has the type of its first part.
    s.parts.first().map_or(DType::F32, |p| source.dtype(p.weight))
}

fn write_file(source: &dyn Source, tensors: &[Named<'_>], path: &Path) -> io::Result<()> {
    let mut tensors = tensors.to_vec();
    // Wide elements first keeps every tensor aligned; then by name.
    tensors.sort_by(|a, b| {
        let wide = |t: &Named<'_>| dtype(source, t.1).bytes();
        wide(b).cmp(&wide(a)).then_with(|| a.0.cmp(b.0))
    });
    let header: Vec<_> =
        tensors.iter().map(|(name, s)| ((*name).to_owned(), dtype(source, s), s.dims.clone())).collect();
    let mut out = File::create(path)?;
    write_header(&mut BufWriter::new(&mut out), &header)?;
    let mut buffer = vec![];
    for (_, s) in tensors {
        let ordered = |p: &super::mapping::Part| p.relation.keeps_order() && source.in_pieces(p.weight);
        let piece = if source.in_memory() || s.parts.iter().all(ordered) { PIECE } else { s.slab };
        let dtype = dtype(source, s);
        for range in pieces(s.elements(), piece) {
            buffer.resize(range.len() * dtype.bytes(), 0);
            gather(source, s, &range, &mut ElementsMut { dtype, bytes: &mut buffer })?;
            out.write_all(&buffer)?;
            source.wrote(buffer.len() as u64);
        }
    }
    out.sync_all()
}

/// Elements `range` of tensor `s`.
pub(super) fn gather(
    source: &dyn Source,
    s: &Stored,
    range: &Range<usize>,
    to: &mut ElementsMut<'_>,
) -> io::Result<()> {
    for part in &s.parts {
        let ours = part.relation.ours_of(range);
        if ours.is_empty() {
            continue;
        }
        let bytes = source.read(part.weight, ours.clone())?;
        let from = Elements { dtype: source.dtype(part.weight), bytes: &bytes };
        part.relation.walk_theirs(range, &mut |r| {
            let (at, other) = (r.other - ours.start, r.at - range.start);
            copy(from, to, Run { at, step: r.other_step, other, other_step: r.step, n: r.n });
        });
    }
    Ok(())
}
