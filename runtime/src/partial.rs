//! Output that is not complete yet: out of sight beside its place, renamed when it is whole.
//!
//! Dropped before that, it is deleted. What a process left that was killed is deleted by the next one that writes the same
//! output: the owner of a partial holds a lock on it, and one that nobody holds has no owner.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;
use tempfile::{NamedTempFile, TempDir};

const SUFFIX: &str = ".partial";

/// A younger partial may have an owner that has not locked it yet.
const YOUNG: Duration = Duration::from_secs(10);

/// A directory out of sight.
#[derive(Debug)]
pub(crate) struct PartialDir {
    temp: TempDir,
    /// Held until the directory is complete or gone.
    _lock: Option<File>,
}

impl PartialDir {
    /// A directory in `parent` (made if it is missing) that will be `name`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn create(parent: &Path, name: &str) -> io::Result<Self> {
        let temp = begin(parent, name, 0o777, |builder| builder.tempdir_in(parent))?;
        Ok(Self { _lock: locked(temp.path()), temp })
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Moves it to `to`; what was at `to` goes away after the new one is in place.
    ///
    /// # Errors
    /// What the system says; then `to` is as it was.
    pub(crate) fn replace(self, to: &Path) -> io::Result<()> {
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let old = if to.exists() {
            let old = tempfile::Builder::new().prefix(".replaced.").tempdir_in(parent)?;
            fs::rename(to, old.path().join("old"))?;
            Some(old)
        } else {
            None
        };
        if let Err(e) = fs::rename(self.temp.path(), to) {
            if let Some(old) = &old {
                fs::rename(old.path().join("old"), to)?;
            }
            return Err(e);
        }
        // Renamed: there is nothing left to delete under its temporary name.
        let _ = self.temp.keep();
        // A rename survives a power cut only after its directory is synced; not all systems can.
        let _ = File::open(parent).and_then(|d| d.sync_all());
        Ok(())
    }
}

/// A file out of sight in `parent` (made if it is missing) that will be `name`.
///
/// # Errors
/// What the system says.
pub(crate) fn file(parent: &Path, name: &str) -> io::Result<NamedTempFile> {
    let temp = begin(parent, name, 0o666, |builder| builder.tempfile_in(parent))?;
    // A file system without locks has partials that look abandoned when they are old: `sweep` asks for the lock, too.
    let _ = temp.as_file().try_lock();
    Ok(temp)
}

/// Makes `parent` if it is missing, removes what killed writers of `name` left there, and has `make` make a new partial with
/// the permissions that the user's mask leaves of `mode`.
#[cfg_attr(not(unix), expect(unused_variables, reason = "modes are Unix's"))]
fn begin<T>(
    parent: &Path,
    name: &str,
    mode: u32,
    make: impl FnOnce(&tempfile::Builder<'_, '_>) -> io::Result<T>,
) -> io::Result<T> {
    fs::create_dir_all(parent)?;
    sweep(parent, name);
    let prefix = format!(".{name}.");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    make(&builder)
}

/// The lock on what is at `path`; `None` if another process has it, or there are no locks here.
pub(crate) fn locked(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.try_lock().ok().map(|()| file)
}

/// Removes what writers of `name` left in `parent` that were killed.
fn sweep(parent: &Path, name: &str) {
    let prefix = format!(".{name}.");
    let ours = |n: &OsStr| n.to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(SUFFIX));
    for entry in fs::read_dir(parent).into_iter().flatten().flatten().filter(|e| ours(&e.file_name())) {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        let old = meta.modified().is_ok_and(|t| t.elapsed().is_ok_and(|age| age > YOUNG));
        // What cannot be removed is only in the way.
        if old && let Some(_lock) = locked(&path) {
            let _ = if meta.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn count(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_a_killed_writer_left_goes_and_what_has_an_owner_stays() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let long_ago = SystemTime::now() - 2 * YOUNG;
        let age = |path: &Path| File::open(path).unwrap().set_modified(long_ago).unwrap();
        fs::create_dir_all(at(".plan.dead.partial/kernels")).unwrap();
        fs::write(at(".plan.dead.txt.partial"), "half").unwrap();
        fs::create_dir(at(".other.dead.partial")).unwrap();
        let alive = PartialDir::create(root.path(), "plan").unwrap();
        let alive_file = file(root.path(), "plan").unwrap();
        for name in [".plan.dead.partial", ".plan.dead.txt.partial", ".other.dead.partial"] {
            age(&at(name));
        }
        age(alive.path());
        age(alive_file.path());
        fs::create_dir(at(".plan.young.partial")).unwrap();
        let next = PartialDir::create(root.path(), "plan").unwrap();
        assert!(alive.path().is_dir() && alive_file.path().is_file() && next.path().is_dir());
        assert!(at(".other.dead.partial").is_dir() && at(".plan.young.partial").is_dir());
        assert!(!at(".plan.dead.partial").exists() && !at(".plan.dead.txt.partial").exists());
        drop((alive, alive_file, next));
        assert_eq!(count(root.path()), 2);
    }

    #[test]
    fn a_directory_replaces_another_whole() {
        let root = tempfile::tempdir().unwrap();
        let to = root.path().join("plan");
        for text in ["one", "two"] {
            let part = PartialDir::create(root.path(), "plan").unwrap();
            fs::write(part.path().join("x"), text).unwrap();
            part.replace(&to).unwrap();
            assert_eq!(fs::read_to_string(to.join("x")).unwrap(), text);
        }
        assert_eq!(count(root.path()), 1);
    }
}
