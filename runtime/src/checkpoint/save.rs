//! Saving: into a directory out of sight, renamed when it is complete, and only then announced.

use super::load::is_weight;
use super::mapping::{Weight, map};
use super::resume::{State, iteration_name};
use super::tensors::WHOLE;
use super::write::{DEFAULT_SHARD, Source, write};
use super::{COMMON, TRACKER};
use crate::codes::{CKPT_WRITE, OUTPUT_IN_USE};
use crate::partial::{self, PartialDir};
use crate::team::Gathered;
use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::names::NameTable;
use athanor_ir::plan::BufferRole;
use athanor_ir::run::RunSpec;
use athanor_ir::{DType, Diagnostic, Result};
use std::borrow::Cow;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Name under which iterations are written, out of sight.
const PARTIAL: &str = "iteration";

/// Saves the iterations of one run, and removes the oldest ones it has saved.
#[derive(Debug)]
pub struct Saver {
    root: PathBuf,
    prefix: String,
    keep: usize,
    config: serde_json::Value,
    names: Option<NameTable>,
    limit: u64,
    written: Vec<PathBuf>,
    /// The directory of the checkpoints, locked.
    claim: Option<File>,
}

impl Saver {
    /// A saver for `run`, below its `output_dir`.
    pub fn new(run: &RunSpec) -> Self {
        // The prefix becomes part of a file name, whatever it holds.
        let prefix = run.checkpoint_prefix.replace(['/', '\\', '\0'], "_");
        Self {
            root: root(run),
            prefix,
            keep: run.keep_checkpoint_max.max(1),
            config: run.hf_config.clone(),
            names: run.weights.first().cloned(),
            limit: DEFAULT_SHARD,
            written: vec![],
            claim: None,
        }
    }

    /// Files of weights are at most `limit` bytes large, unless one tensor is larger.
    #[must_use]
    pub fn shards_of(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Takes the directory of the checkpoints, and makes it if need be, for this run alone until the saver is dropped.
    ///
    /// # Errors
    /// [`OUTPUT_IN_USE`], [`CKPT_WRITE`].
    pub fn claim(&mut self) -> Result<()> {
        if self.claim.is_some() {
            return Ok(());
        }
        let open = || {
            fs::create_dir_all(&self.root)?;
            File::open(&self.root)
        };
        let dir = open().map_err(|e| cannot_save(&self.root, &e))?;
        match dir.try_lock() {
            Ok(()) => self.claim = Some(dir),
            Err(TryLockError::WouldBlock) => {
                let text = format!("another run is saving its checkpoints in {}", self.root.display());
                let e = Diagnostic::error(&OUTPUT_IN_USE, text);
                return e.help("give this run another output_dir, or wait until the other one has ended").err();
            }
            // A file system without locks: nothing is known of others.
            Err(TryLockError::Error(_)) => {}
        }
        Ok(())
    }

    /// Saves weights, moments and `state`; the directory of the iteration. `gathered` has what `device` holds a part of.
    ///
    /// # Errors
    /// [`CKPT_WRITE`], [`OUTPUT_IN_USE`]; earlier iterations and the tracker stay as they were.
    pub fn save(&mut self, device: &CpuDevice, gathered: &Gathered, state: &State) -> Result<PathBuf> {
        self.claim()?;
        let dir = self.root.join(iteration_name(state.global_step));
        self.write(device, gathered, state, &dir).map_err(|e| cannot_save(&dir, &e))?;
        self.written.retain(|d| *d != dir);
        self.written.push(dir.clone());
        while self.written.len() > self.keep {
            // What cannot be removed is only in the way.
            let _ = fs::remove_dir_all(self.written.remove(0));
        }
        Ok(dir)
    }

    fn write(&self, device: &CpuDevice, gathered: &Gathered, state: &State, dir: &Path) -> io::Result<()> {
        let temp = PartialDir::create(&self.root, PARTIAL)?;
        let at = |name: &str| temp.path().join(name);
        let weights = format!("{}-model-0000000-0000001.safetensors", self.prefix);
        let plain = NameTable::default();
        let table = self.names.as_ref().unwrap_or(&plain);
        let arena = |wanted: fn(&BufferRole) -> bool| {
            let (buffers, weights) = super::load::weights(device.plan(), wanted);
            Arena { device, gathered, buffers, weights }
        };
        let files = write_tensors(&arena(is_weight), temp.path(), &weights, table, self.limit)?;
        if files == [weights.as_str()] {
            // The same file under the name that Hugging Face looks for; a copy where links are not possible.
            fs::hard_link(at(&weights), at(WHOLE)).or_else(|_| fs::copy(at(&weights), at(WHOLE)).map(|_| ()))?;
        }
        let moments = format!("{}-opt-0000000-0000001.safetensors", self.prefix);
        // Moments go with the plan's own names: only a plan reads them.
        let states = arena(|role| *role == BufferRole::Moment);
        write_tensors(&states, temp.path(), &moments, &plain, u64::MAX)?;
        write_synced(&at("config.json"), &pretty(&self.config)?)?;
        write_synced(&at(COMMON), &pretty(state)?)?;
        temp.replace(dir)?;
        let tracker = partial::file(&self.root, TRACKER)?;
        write_synced(tracker.path(), state.global_step.to_string().as_bytes())?;
        tracker.persist(self.root.join(TRACKER))?;
        File::open(&self.root)?.sync_all()
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "errors travel boxed")]
fn cannot_save(path: &Path, e: &io::Error) -> Box<Diagnostic> {
    let e = Diagnostic::error(&CKPT_WRITE, format!("cannot save {}: {e}", path.display()));
    Box::new(e.help("check that output_dir is writable and the disk has room; earlier checkpoints are intact"))
}

/// Directory of the checkpoints of `run`.
pub fn root(run: &RunSpec) -> PathBuf {
    Path::new(if run.output_dir.is_empty() { "./output" } else { &run.output_dir }).join("checkpoint")
}

fn pretty(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes the buffers of `arena` in the naming of `table`; the names of the files.
fn write_tensors(arena: &Arena<'_>, dir: &Path, whole: &str, table: &NameTable, limit: u64) -> io::Result<Vec<String>> {
    let stored = map(table, &arena.weights).map_err(|unfit| {
        let first = unfit.first().map(|u| format!("`{}`: {}", u.name, u.why)).unwrap_or_default();
        io::Error::other(format!("{} weights do not suit the plan's table of names, {first}", unfit.len()))
    })?;
    write(arena, &stored, &table.copies, dir, whole, limit)
}

/// The buffers of a device as weights.
struct Arena<'a> {
    device: &'a CpuDevice,
    gathered: &'a Gathered,
    /// Stage and index of each.
    buffers: Vec<(usize, usize)>,
    weights: Vec<Weight>,
}

impl Source for Arena<'_> {
    fn dtype(&self, weight: usize) -> DType {
        self.weights[weight].dtype
    }

    fn read(&self, weight: usize, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        let size = self.weights[weight].dtype.bytes();
        let (stage, buffer) = self.buffers[weight];
        let bytes = match self.gathered.bytes(stage, buffer) {
            Some(bytes) => bytes,
            None if stage == self.device.stage_index() => self.device.bytes(buffer),
            None => return Err(io::Error::other(format!("the weights of stage {stage} were not gathered"))),
        };
        Ok(Cow::Borrowed(&bytes[range.start * size..range.end * size]))
    }

    fn in_pieces(&self, _: usize) -> bool {
        true
    }

    fn in_memory(&self) -> bool {
        true
    }
}
