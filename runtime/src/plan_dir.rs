//! The plan directory: `plan.json`, `kernels/kernels.so`, `ir/`, and `checksums` that tie the first two together.

use crate::codes::{PLAN_FORMAT, PLAN_KERNELS, PLAN_READ, PLAN_VERSION, PLAN_WRITE};
use crate::partial::PartialDir;
use athanor_ir::plan::{KernelKind, Plan, SIM, VERSION};
use athanor_ir::{Diagnostic, Result};
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Name of the plan inside its directory.
pub const PLAN_JSON: &str = "plan.json";
/// Where the kernels are inside a plan directory.
pub const KERNELS_SO: &str = "kernels/kernels.so";
/// BLAKE3 of the files that must belong together, in the form of `b3sum`.
pub const CHECKSUMS: &str = "checksums";

/// A larger plan.json is taken for damaged.
const MOST_BYTES: u64 = 1 << 31;

/// A plan that was read from its directory.
#[derive(Debug, Clone)]
pub struct PlanDir {
    /// The directory.
    pub dir: PathBuf,
    /// The plan.
    pub plan: Plan,
    /// Shared object with the generated kernels, if the plan has any.
    pub kernels: Option<PathBuf>,
}

fn read_error(path: &Path, e: &io::Error) -> Diagnostic {
    Diagnostic::error(&PLAN_READ, format!("cannot read {}: {e}", path.display()))
        .help("give the directory that `athanor compile -o` wrote")
}

fn write_error(path: &Path, e: &io::Error) -> Diagnostic {
    Diagnostic::error(&PLAN_WRITE, format!("cannot write {}: {e}", path.display()))
        .help("check that the parent directory is writable and the disk has room")
}

/// Reads the plan at `path`: its directory, or the plan.json in it.
///
/// # Errors
/// [`PLAN_READ`], [`PLAN_VERSION`], [`PLAN_FORMAT`], and [`PLAN_KERNELS`] if plan and kernels do not belong together.
pub fn read(path: &Path) -> Result<PlanDir> {
    let file = path.file_name().is_some_and(|n| n == PLAN_JSON) && path.is_file();
    let dir = if file { path.parent().unwrap_or(Path::new("")) } else { path };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let json = dir.join(PLAN_JSON);
    let bytes = read_bounded(&json).or_else(|e| read_error(&json, &e).err())?;
    let plan = parse(&json, &bytes)?;
    let compiled =
        plan.target.device != SIM && plan.kernels.iter().any(|k| matches!(k.kind, KernelKind::Generated { .. }));
    let kernels = compiled.then(|| dir.join(KERNELS_SO));
    if let Some(kernels) = &kernels {
        let list = dir.join(CHECKSUMS);
        let recorded = read_bounded(&list).or_else(|e| read_error(&list, &e).err())?;
        let found = checksums(&bytes, kernels).or_else(|e| read_error(kernels, &e).err())?;
        if let Some(line) = found.lines().find(|l| !recorded.split(|b| *b == b'\n').any(|r| r == l.as_bytes())) {
            let name = line.rsplit("  ").next().unwrap_or_default();
            let e = Diagnostic::error(
                &PLAN_KERNELS,
                format!("{} has changed since the plan was compiled", dir.join(name).display()),
            );
            return e.help("compile the configuration again").err();
        }
    }
    Ok(PlanDir { dir: dir.to_path_buf(), plan, kernels })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {MOST_BYTES} bytes")));
    }
    let mut bytes = vec![];
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Plan> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |e: serde_json::Error| {
        Box::new(
            Diagnostic::error(&PLAN_FORMAT, format!("{}:{}:{}: {e}", path.display(), e.line(), e.column()))
                .help("compile the configuration again"),
        )
    };
    // The version comes first: another one may have other fields.
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Diagnostic::error(
            &PLAN_VERSION,
            format!("{} has format version {version}; this runner executes version {VERSION}", path.display()),
        )
        .help("compile the configuration again with this version of athanor")
        .err();
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Lines of [`CHECKSUMS`].
fn checksums(plan: &[u8], kernels: &Path) -> io::Result<String> {
    let mut hash = blake3::Hasher::new();
    hash.update_reader(File::open(kernels)?)?;
    let mut out = String::new();
    for (name, hash) in [(PLAN_JSON, blake3::hash(plan)), (KERNELS_SO, hash.finalize())] {
        let _ = writeln!(out, "{}  {name}", hash.to_hex());
    }
    Ok(out)
}

/// Writes `plan` to the directory `to`; `make_kernels` gets the path where its shared object belongs, and may leave it
/// out when there are no generated kernels.
///
/// # Errors
/// [`PLAN_WRITE`], and what `make_kernels` reports; nothing is left behind, and an older plan at `to` stays.
pub fn write(plan: &Plan, to: &Path, make_kernels: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let writer = Writer::create(to)?;
    make_kernels(&writer.kernels())?;
    writer.commit(plan)
}

/// A plan directory being written, out of sight until [`Writer::commit`]; dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    temp: PartialDir,
    to: PathBuf,
}

impl Writer {
    /// Starts the plan directory `to`.
    ///
    /// # Errors
    /// [`PLAN_WRITE`] if `to` exists and is neither a plan nor an empty directory, or its parent is not writable.
    pub fn create(to: &Path) -> Result<Self> {
        replaceable(to)?;
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let make = || {
            let temp = PartialDir::create(parent, &name)?;
            fs::create_dir(temp.path().join("kernels"))?;
            Ok(temp)
        };
        let temp = make().or_else(|e| write_error(to, &e).err())?;
        Ok(Self { temp, to: to.to_path_buf() })
    }

    /// Where the directory is until it is complete.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Where the linker puts the kernels.
    pub fn kernels(&self) -> PathBuf {
        self.temp.path().join(KERNELS_SO)
    }

    /// Where dumps go; the caller makes the directory.
    pub fn ir(&self) -> PathBuf {
        self.temp.path().join("ir")
    }

    /// Writes plan.json and moves the directory to its place, replacing an older plan.
    ///
    /// # Errors
    /// [`PLAN_WRITE`]; nothing is left behind, and an older plan stays.
    pub fn commit(self, plan: &Plan) -> Result<()> {
        let failed = |e: io::Error| Box::new(write_error(&self.to, &e));
        let mut bytes = serde_json::to_vec_pretty(plan).map_err(|e| failed(e.into()))?;
        bytes.push(b'\n');
        let dir = self.temp.path();
        let write = |name: &str, bytes: &[u8]| {
            let mut file = File::create(dir.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write(PLAN_JSON, &bytes).map_err(failed)?;
        let kernels = self.kernels();
        if kernels.is_file() {
            let sums = checksums(&bytes, &kernels).map_err(failed)?;
            File::open(&kernels).and_then(|f| f.sync_all()).map_err(failed)?;
            write(CHECKSUMS, sums.as_bytes()).map_err(failed)?;
        }
        replaceable(&self.to)?;
        let Self { temp, to } = self;
        temp.replace(&to).or_else(|e| write_error(&to, &e).err())
    }
}

/// Refuses to replace anything but a plan or an empty directory.
fn replaceable(to: &Path) -> Result<()> {
    let other = match fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_some() && !to.join(PLAN_JSON).is_file(),
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    };
    if other {
        return Diagnostic::error(&PLAN_WRITE, format!("{} is there already and is no plan", to.display()))
            .help("give a new directory, or an older plan to replace")
            .err();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
