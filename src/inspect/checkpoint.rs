//! What a checkpoint holds: tensors of safetensors files, from their headers alone.

use super::{Args, json};
use crate::failure::Failure;
use crate::output::emit;
use crate::text::{bytes, count, grouped, table};
use athanor_ir::Diagnostic;
use athanor_runtime::checkpoint::file::TensorFile;
use athanor_runtime::checkpoint::{COMMON, State};
use athanor_runtime::codes::CKPT_OPEN;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Summary {
    path: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
    elements: u64,
    /// Elements by type.
    dtypes: BTreeMap<String, u64>,
    /// Where the run stood.
    state: Option<State>,
    metadata: BTreeMap<String, String>,
    tensors: Vec<Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    /// Index into `files`.
    file: usize,
    /// Where its data begins in the file.
    offset: u64,
}

/// Whether the directory holds safetensors files.
pub fn is_in(dir: &Path) -> bool {
    parts(dir).is_ok_and(|p| !p.is_empty())
}

/// The safetensors files of `dir`, by name.
fn parts(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    // A checkpoint of ours gives the weights a second name for Hugging Face, which is not a second copy.
    let mut seen = vec![];
    files.retain(|path| {
        let same = identity(path);
        let fresh = same.is_none() || !seen.contains(&same);
        seen.push(same);
        fresh
    });
    Ok(files)
}

/// Device and number of the file behind a name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Where the run stood, if the directory is an iteration that training saved.
fn state(dir: &Path) -> Option<State> {
    serde_json::from_slice(&std::fs::read(dir.join(COMMON)).ok()?).ok()
}

pub fn show(path: &Path, args: &Args) -> Result<(), Failure> {
    let cannot = |e: std::io::Error| Diagnostic::error(&CKPT_OPEN, format!("cannot read {}: {e}", path.display()));
    let files = if path.is_dir() { parts(path).or_else(|e| cannot(e).err())? } else { vec![path.to_path_buf()] };
    let mut summary = Summary {
        path: path.to_path_buf(),
        bytes: 0,
        elements: 0,
        dtypes: BTreeMap::new(),
        state: state(path),
        metadata: BTreeMap::new(),
        tensors: vec![],
        files: vec![],
    };
    for file in files {
        add(&mut summary, &file)?;
        summary.files.push(file);
    }
    if args.json {
        json(&summary);
    } else {
        emit(&render(&summary, args.top));
    }
    Ok(())
}

fn add(s: &mut Summary, path: &Path) -> athanor_ir::Result<()> {
    let file = TensorFile::open(path)?;
    s.bytes += file.len() as u64;
    let mut tensors: Vec<_> = file.tensors.iter().collect();
    tensors.sort_by_key(|(_, t)| t.data_offsets);
    for (name, info) in tensors {
        let dtype = format!("{:?}", info.dtype);
        let elements = info.shape.iter().product::<usize>() as u64;
        s.elements = s.elements.saturating_add(elements);
        *s.dtypes.entry(dtype.clone()).or_default() += elements;
        let (from, to) = info.data_offsets;
        s.tensors.push(Tensor {
            name: name.clone(),
            dtype,
            shape: info.shape.clone(),
            bytes: (to - from) as u64,
            file: s.files.len(),
            offset: (file.data_start() + from) as u64,
        });
    }
    s.metadata.extend(file.metadata.iter().map(|(k, v)| (k.clone(), v.clone())));
    Ok(())
}

fn render(s: &Summary, top: usize) -> String {
    let mut out = String::new();
    let dtypes: Vec<String> = s.dtypes.iter().map(|(d, n)| format!("{} {d}", grouped(*n))).collect();
    let (tensors, files) = (count(s.tensors.len() as u64, "tensor"), count(s.files.len() as u64, "file"));
    let _ = writeln!(out, "{}: {tensors} in {files}, {}", s.path.display(), bytes(s.bytes));
    let _ = writeln!(out, "  elements    {}", if dtypes.is_empty() { "none".into() } else { dtypes.join(", ") });
    if let Some(state) = &s.state {
        let _ = writeln!(out, "  saved       after {}", count(state.global_step, "step"));
    }
    for (key, value) in &s.metadata {
        let short: String = value.chars().take(80).collect();
        let _ = writeln!(out, "  {key:<10}  {short}");
    }
    let row = |t: &Tensor| vec![t.name.clone(), t.dtype.clone(), format!("{:?}", t.shape), bytes(t.bytes)];
    let _ = writeln!(out, "\nTensors in the order of the file");
    out.push_str(&table(&s.tensors.iter().take(top).map(row).collect::<Vec<_>>(), &[1, 2]));
    if s.tensors.len() > top {
        let _ = writeln!(out, "  … and {} more (--top {}, --json)", s.tensors.len() - top, s.tensors.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_runtime::codes::SAFETENSORS;

    fn summary() -> Summary {
        Summary {
            path: PathBuf::new(),
            files: vec![],
            bytes: 0,
            elements: 0,
            dtypes: BTreeMap::new(),
            state: None,
            metadata: BTreeMap::new(),
            tensors: vec![],
        }
    }

    fn written(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn every_cut_of_a_file_is_refused_and_the_whole_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let header = r#"{"b":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"a":{"dtype":"BF16","shape":[1],"data_offsets":[24,26]}}"#;
        let whole = written(header, 26);
        std::fs::write(&path, &whole).unwrap();
        let mut s = summary();
        add(&mut s, &path).unwrap();
        assert_eq!((s.bytes, s.elements), (whole.len() as u64, 7));
        // In the order of the file, not of the names.
        let order: Vec<_> = s.tensors.iter().map(|t| (t.name.as_str(), t.offset - 8 - header.len() as u64)).collect();
        assert_eq!(order, [("b", 0), ("a", 24)]);
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(add(&mut summary(), &path).unwrap_err().code, &SAFETENSORS, "cut at {end}");
        }
    }
}
