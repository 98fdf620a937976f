//! Output files that appear whole or not at all.

use super::codes;
use crate::partial;
use athanor_ir::diag::{Diagnostic, Result};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file written beside its final place and renamed to it by [`Output::commit`]; dropped before that, it is deleted.
#[derive(Debug)]
pub(crate) struct Output {
    writer: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Output {
    /// Starts a file that will be `path`; the directory is made if it is missing.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match partial::file(dir, &name) {
            Ok(t) => Ok(Self { writer: BufWriter::with_capacity(1 << 20, t), path: path.to_path_buf() }),
            Err(e) => failed(path, &e),
        }
    }

    /// Appends `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).or_else(|e| failed(&self.path, &e))
    }

    /// Writes everything to disk without publishing it, so that [`Finished::publish`] is only a rename.
    pub(crate) fn finish(self) -> Result<Finished> {
        let Self { writer, path } = self;
        let temp = writer.into_inner().map_err(io::IntoInnerError::into_error);
        match temp.and_then(|t| t.as_file().sync_all().map(|()| t)) {
            Ok(temp) => Ok(Finished { temp, path }),
            Err(e) => failed(&path, &e),
        }
    }

    /// Finishes and publishes.
    pub(crate) fn commit(self) -> Result<()> {
        self.finish()?.publish()
    }
}

/// A file that is complete on disk but not yet in its place.
#[derive(Debug)]
pub(crate) struct Finished {
    temp: NamedTempFile,
    path: PathBuf,
}

impl Finished {
    /// Renames the file to its final name, replacing what is there.
    pub(crate) fn publish(self) -> Result<()> {
        match self.temp.persist(&self.path) {
            Ok(_) => {
                // The rename itself survives a power cut only after the directory is synced; not all systems can.
                let _ = self.path.parent().and_then(|d| File::open(d).ok()).map(|d| d.sync_all());
                Ok(())
            }
            Err(e) => failed(&self.path, &e.error),
        }
    }
}

fn failed<T>(path: &Path, e: &io::Error) -> Result<T> {
    Diagnostic::error(&codes::FILE_WRITE, format!("cannot write {}: {e}", path.display()))
        .help("check that the directory is writable and the disk has room")
        .err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_output_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = Output::create(&dir.path().join("new/a.bin")).unwrap();
        out.write(b"abc").unwrap();
        drop(out);
        assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 0);
    }

    #[test]
    fn a_committed_output_replaces_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        std::fs::write(&path, "old and longer").unwrap();
        let mut out = Output::create(&path).unwrap();
        out.write(b"new").unwrap();
        out.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unwritable_place_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(Output::create(&dir.path().join("file/a.bin")).unwrap_err().code.id, "D0013");
    }
}
