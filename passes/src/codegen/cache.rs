//! Kernels that were compiled before, in a directory.
//!
//! An object is found by all that it was made of: the kernel's text, the instructions it may use, the code that turns text into
//! objects, and the version of LLVM. So a directory may be shared by any number of plans and of versions of this program. Each file ends
//! with the hash of what is before it; one that is torn is made again.

use super::llvm::{Instructions, KernelText};
use super::llvm_c;
use std::path::{Path, PathBuf};

/// What turns a text into an object, beside LLVM.
const COMPILER: [&str; 2] = [include_str!("llvm.rs"), include_str!("llvm_c.rs")];

/// Bytes of a hash.
const HASH: usize = blake3::OUT_LEN;

/// A directory of objects.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in `dir`, which is made when the first object is put there.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the object of `kernel` for `instructions` is.
    fn file(&self, kernel: &KernelText, instructions: Instructions) -> PathBuf {
        let mut hash = blake3::Hasher::new();
        let of = format!("{instructions:?} {} {} {:?}", kernel.symbol, kernel.buffers, llvm_c::version());
        for part in COMPILER.into_iter().chain([of.as_str(), &kernel.mlir]) {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let name = hash.finalize().to_hex();
        self.dir.join(&name[..2]).join(&name[2..])
    }

    /// The object of `kernel`, if it is there and whole.
    pub(super) fn get(&self, kernel: &KernelText, instructions: Instructions) -> Option<Vec<u8>> {
        let mut object = std::fs::read(self.file(kernel, instructions)).ok()?;
        let end = object.len().checked_sub(HASH)?;
        let told = object.split_off(end);
        (blake3::hash(&object).as_bytes()[..] == told[..]).then_some(object)
    }

    /// Keeps `object`. A directory that cannot be written keeps nothing: the next one compiles again.
    pub(super) fn put(&self, kernel: &KernelText, instructions: Instructions, object: &[u8]) {
        let file = self.file(kernel, instructions);
        let _ = file.parent().map(|dir| write(dir, &file, object));
    }
}

/// Writes `object` and its hash under a name of its own, and then gives it its name.
fn write(dir: &Path, file: &Path, object: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::create_dir_all(dir)?;
    let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
    temporary.write_all(object)?;
    temporary.write_all(blake3::hash(object).as_bytes())?;
    temporary.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::target::CpuLevel;

    fn kernel(mlir: &str) -> KernelText {
        KernelText { symbol: "k".into(), mlir: mlir.into(), buffers: 1 }
    }

    #[test]
    fn an_object_is_found_by_what_it_was_made_of_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path().join("kernels"));
        let (level, k) = (Instructions::of(CpuLevel::Portable), kernel("a"));
        assert_eq!(cache.get(&k, level), None);
        cache.put(&k, level, b"object");
        assert_eq!(cache.get(&k, level).as_deref(), Some(&b"object"[..]));
        assert_eq!(cache.get(&kernel("b"), level), None);
        assert_eq!(cache.get(&KernelText { buffers: 2, ..k.clone() }, level), None);
        assert_eq!(cache.get(&k, Instructions::of(CpuLevel::Avx2)), None);
        let file = cache.file(&k, level);
        let whole = std::fs::read(&file).unwrap();
        for end in [0, 5, whole.len() - 1] {
            std::fs::write(&file, &whole[..end]).unwrap();
            assert_eq!(cache.get(&k, level), None, "{end} bytes of it");
        }
    }
}
