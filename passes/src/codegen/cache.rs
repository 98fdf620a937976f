//! Kernels that were compiled before, in a directory.
//!
//! An object is found by all that it was made of: the kernel's text, the instructions it may use, the code that turns text into
//! objects, and the version of LLVM. So a directory may be shared by any number of plans and of versions of this program. Each file ends
//! with the hash of what is before it; one that is torn is made again.

use std::path::{Path, PathBuf};

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

    /// Where the object is that was made of `of`.
    fn file(&self, of: &[&str]) -> PathBuf {
        let mut hash = blake3::Hasher::new();
        for part in of {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let name = hash.finalize().to_hex();
        self.dir.join(&name[..2]).join(&name[2..])
    }

    /// The object that was made of `of`, if it is there and whole.
    pub(super) fn get(&self, of: &[&str]) -> Option<Vec<u8>> {
        let mut object = std::fs::read(self.file(of)).ok()?;
        let end = object.len().checked_sub(HASH)?;
        let told = object.split_off(end);
        (blake3::hash(&object).as_bytes()[..] == told[..]).then_some(object)
    }

    /// Keeps `object`, made of `of`. A directory that cannot be written keeps nothing: the next one compiles again.
    pub(super) fn put(&self, of: &[&str], object: &[u8]) {
        let file = self.file(of);
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

    #[test]
    fn an_object_is_found_by_what_it_was_made_of_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path().join("kernels"));
        let of = ["compiler", "ab"];
        assert_eq!(cache.get(&of), None);
        cache.put(&of, b"object");
        assert_eq!(cache.get(&of).as_deref(), Some(&b"object"[..]));
        for other in [&["compiler", "abc"][..], &["compiler", "a", "b"], &["compilera", "b"], &["ab", "compiler"]] {
            assert_eq!(cache.get(other), None, "{other:?}");
        }
        let file = cache.file(&of);
        let whole = std::fs::read(&file).unwrap();
        for end in [0, 5, whole.len() - 1] {
            std::fs::write(&file, &whole[..end]).unwrap();
            assert_eq!(cache.get(&of), None, "{end} bytes of it");
        }
    }
}
