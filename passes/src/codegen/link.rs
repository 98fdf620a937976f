//! Objects to one shared object, through whichever linker the host has.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use athanor_ir::{Diagnostic, Result};

use super::{KERNEL_IO, LINK_FAILED, NO_LINKER};

/// Links `objects` into the shared object `out`; a failure leaves no file at `out` that was not there before.
///
/// Tries `cc`, `ld`, `ld.lld-22` and `ld.lld` in this order. An existing `out` is replaced by rename, so a process
/// that has the old one mapped keeps it.
pub fn link(objects: &[Vec<u8>], out: &Path) -> Result<()> {
    let io = |what: &Path, e: std::io::Error| {
        Box::new(Diagnostic::error(&KERNEL_IO, format!("cannot write `{}`: {e}", what.display())).help(
            "the disk must have room there; TMPDIR is where `athanor train` puts kernels, -o where `athanor compile` does",
        ))
    };
    let folder = match out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let work = tempfile::Builder::new().prefix(".kernels-").tempdir_in(folder).map_err(|e| io(folder, e))?;
    // A response file keeps thousands of kernels below the limit on a command line; bare file names in it need no quoting.
    let mut names = String::new();
    for (i, object) in objects.iter().enumerate() {
        let name = format!("{i}.o");
        let path = work.path().join(&name);
        std::fs::write(&path, object).map_err(|e| io(&path, e))?;
        names.push_str(&name);
        names.push('\n');
    }
    let list = work.path().join("objects");
    std::fs::write(&list, names).map_err(|e| io(&list, e))?;
    let linked: PathBuf = work.path().join("linked.so");

    // libm only for what a kernel calls, and a missing symbol is an error here rather than at load.
    let cc: &[&str] = &[
        "-shared",
        "-nostartfiles",
        "-Wl,--build-id=none",
        "-o",
        "linked.so",
        "@objects",
        "-Wl,--as-needed",
        "-lm",
        "-Wl,-z,defs",
    ];
    let ld: &[&str] = &["-shared", "--build-id=none", "-o", "linked.so", "@objects"];
    for (program, args) in [("cc", cc), ("ld", ld), ("ld.lld-22", ld), ("ld.lld", ld)] {
        match Command::new(program).args(args).current_dir(work.path()).output() {
            Ok(done) if done.status.success() => return std::fs::rename(&linked, out).map_err(|e| io(out, e)),
            Ok(done) => {
                let words = String::from_utf8_lossy(&done.stderr);
                return Diagnostic::error(
                    &LINK_FAILED,
                    format!("`{program}` failed ({}): {}", done.status, words.trim()),
                )
                .err();
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Diagnostic::error(&NO_LINKER, format!("`{program}` cannot be started: {e}")).err(),
        }
    }
    Diagnostic::error(&NO_LINKER, "none of `cc`, `ld`, `ld.lld-22`, `ld.lld` is on the PATH")
        .help("install a C compiler or binutils (Debian: `apt install gcc`)")
        .err()
}
