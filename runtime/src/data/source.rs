//! Bytes of a data file, mapped or read on demand.

use super::codes;
use athanor_ir::diag::{Diagnostic, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is read at random offsets by many threads.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// Plain reads: a damaged disk or a file cut off under us is an error, not a signal.
    File(File),
    Map(Mmap),
}

impl Source {
    /// Opens `path`; `mmap` chooses mapping over positioned reads.
    pub(crate) fn open(path: &Path, mmap: bool) -> Result<Self> {
        let (file, len) = open_file(path)?;
        let bytes = if mmap && len > 0 { Bytes::Map(map(&file, path)?) } else { Bytes::File(file) };
        Ok(Self { path: path.to_path_buf(), len, bytes })
    }

    /// Fills `out` from byte `offset`; it is an error to read beyond the end.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let done = match &self.bytes {
            Bytes::File(file) => read_exact_at(file, out, offset),
            Bytes::Map(map) => usize::try_from(offset)
                .ok()
                .and_then(|at| map.get(at..at.checked_add(out.len())?))
                .map(|bytes| out.copy_from_slice(bytes))
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        };
        done.or_else(|e| {
            Diagnostic::error(
                &codes::FILE_READ,
                format!("{}: cannot read {} bytes at byte {offset}: {e}", self.path.display(), out.len()),
            )
            .help("check the disk or mount, and that nothing rewrites the file during the run")
            .err()
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Opens a plain file for reading and gives its size.
pub(crate) fn open_file(path: &Path) -> Result<(File, u64)> {
    let fail = |why: String, help: &str| {
        Diagnostic::error(&codes::FILE_OPEN, format!("cannot open {}: {why}", path.display())).help(help).err()
    };
    if path.to_str().is_some_and(|p| p.starts_with("s3://")) {
        return fail("object stores are not read".into(), "copy the files to a disk that every node sees");
    }
    let opened = File::open(path).and_then(|f| f.metadata().map(|m| (f, m)));
    match opened {
        Ok((file, meta)) if meta.is_file() => Ok((file, meta.len())),
        Ok(_) => fail("it is not a plain file".into(), "give the path of a file, or the prefix of a .bin/.idx pair"),
        Err(e) => fail(e.to_string(), "check the path; relative paths start at the directory of the command"),
    }
}

/// Maps a whole file for reading.
pub(crate) fn map(file: &File, path: &Path) -> Result<Mmap> {
    // SAFETY: the mapping is read-only and private to this process. Data files are not rewritten during a run; if one
    // is truncated by another program all the same, the process gets SIGBUS, which is why token files are read with
    // positioned reads unless the user asks for mapping.
    unsafe { Mmap::map(file) }.or_else(|e| {
        Diagnostic::error(&codes::FILE_OPEN, format!("cannot map {}: {e}", path.display()))
            .help("set mmap_bin_files: False for file systems that cannot map files")
            .err()
    })
}
