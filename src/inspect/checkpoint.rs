//! What a checkpoint holds: tensors of safetensors files, from their headers alone.

use super::{Args, json};
use crate::failure::Failure;
use crate::output::emit;
use crate::text::{bytes, count, grouped, table};
use athanor_ir::Diagnostic;
use athanor_runtime::checkpoint::{COMMON, State};
use athanor_runtime::codes::{CKPT_OPEN, SAFETENSORS};
use safetensors::tensor::Metadata;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The format itself allows no larger header.
const MOST_HEADER: u64 = 100_000_000;

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
    let (start, header, size) = header(path)?;
    s.bytes += size;
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let dtype = format!("{:?}", info.dtype);
        let elements = info.shape.iter().product::<usize>() as u64;
        s.elements = s.elements.saturating_add(elements);
        *s.dtypes.entry(dtype.clone()).or_default() += elements;
        let (from, to) = info.data_offsets;
        s.tensors.push(Tensor {
            name,
            dtype,
            shape: info.shape.clone(),
            bytes: (to - from) as u64,
            file: s.files.len(),
            offset: start + from as u64,
        });
    }
    s.metadata.extend(header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
    Ok(())
}

/// Where the data begins, the header, and the size of the file.
fn header(path: &Path) -> athanor_ir::Result<(u64, Metadata, u64)> {
    let open = |e: std::io::Error| {
        let d = Diagnostic::error(&CKPT_OPEN, format!("cannot read {}: {e}", path.display()));
        Box::new(d.help("give a .safetensors file or a directory that holds some"))
    };
    let damaged = |at: u64, why: &str| {
        Diagnostic::error(&SAFETENSORS, format!("{} is damaged at byte {at}: {why}", path.display()))
            .help("copy or download the file again")
            .err()
    };
    let mut file = File::open(path).map_err(open)?;
    let size = file.metadata().map_err(open)?.len();
    if size < 8 {
        return damaged(size, "it ends within the length of its header");
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(open)?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER || length > size - 8 {
        return damaged(0, &format!("its header would be {length} bytes long"));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(open)?;
    // The names, shapes and offsets are checked against each other here.
    let header: Metadata = match serde_json::from_slice(&text) {
        Ok(header) => header,
        Err(e) => return damaged(8, &format!("its header cannot be read: {e}")),
    };
    let start = 8 + length;
    let data = header.data_len() as u64;
    if start.checked_add(data) != Some(size) {
        return damaged(size, &format!("{data} bytes of tensors should follow its header, {} do", size - start));
    }
    Ok((start, header, size))
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

    fn file(dir: &Path, bytes: &[u8]) -> PathBuf {
        let path = dir.join("t.safetensors");
        std::fs::write(&path, bytes).unwrap();
        path
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
        let header_text = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
        let whole = written(header_text, 24);
        let (start, metadata, size) = header(&file(dir.path(), &whole)).unwrap();
        assert_eq!((start, metadata.data_len(), size), (8 + header_text.len() as u64, 24, whole.len() as u64));
        for end in 0..whole.len() {
            let e = header(&file(dir.path(), &whole[..end])).unwrap_err();
            assert_eq!(e.code, &SAFETENSORS, "cut at {end}");
        }
    }

    #[test]
    fn contradictions_in_a_header_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (text, data) in [
            (r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}}"#, 20),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
            (r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#, 8),
            ("[]", 0),
        ] {
            assert_eq!(header(&file(dir.path(), &written(text, data))).unwrap_err().code, &SAFETENSORS, "{text}");
        }
        let mut huge = u64::MAX.to_le_bytes().to_vec();
        huge.extend([0; 8]);
        assert_eq!(header(&file(dir.path(), &huge)).unwrap_err().code, &SAFETENSORS);
    }
}
