//! Saving: into a directory out of sight, renamed when it is complete, and only then announced.

use super::file::format_dtype;
use super::resume::{State, iteration_name};
use super::{COMMON, TRACKER};
use crate::codes::{CKPT_WRITE, OUTPUT_IN_USE};
use crate::partial::{self, PartialDir};
use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::plan::BufferRole;
use athanor_ir::run::RunSpec;
use athanor_ir::{Diagnostic, Result};
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
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
            written: vec![],
            claim: None,
        }
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

    /// Saves weights, moments and `state`; the directory of the iteration.
    ///
    /// # Errors
    /// [`CKPT_WRITE`], [`OUTPUT_IN_USE`]; earlier iterations and the tracker stay as they were.
    pub fn save(&mut self, device: &CpuDevice, state: &State) -> Result<PathBuf> {
        self.claim()?;
        let dir = self.root.join(iteration_name(state.global_step));
        self.write(device, state, &dir).map_err(|e| cannot_save(&dir, &e))?;
        self.written.retain(|d| *d != dir);
        self.written.push(dir.clone());
        while self.written.len() > self.keep {
            // What cannot be removed is only in the way.
            let _ = fs::remove_dir_all(self.written.remove(0));
        }
        Ok(dir)
    }

    fn write(&self, device: &CpuDevice, state: &State, dir: &Path) -> io::Result<()> {
        let temp = PartialDir::create(&self.root, PARTIAL)?;
        let at = |name: &str| temp.path().join(name);
        let weights = at(&format!("{}-model-0000000-0000001.safetensors", self.prefix));
        write_tensors(device, &weights, |role| matches!(role, BufferRole::Weight { .. }))?;
        // The same file under the name that Hugging Face looks for; a copy where links are not possible.
        fs::hard_link(&weights, at("model.safetensors"))
            .or_else(|_| fs::copy(&weights, at("model.safetensors")).map(|_| ()))?;
        let moments = at(&format!("{}-opt-0000000-0000001.safetensors", self.prefix));
        write_tensors(device, &moments, |role| *role == BufferRole::Moment)?;
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

/// Writes the buffers that `wanted` accepts, straight from the arena, and waits until they are on the disk.
fn write_tensors(device: &CpuDevice, path: &Path, wanted: impl Fn(&BufferRole) -> bool) -> io::Result<()> {
    let mut buffers: Vec<(usize, &athanor_ir::plan::Buffer)> =
        device.stage().buffers.iter().enumerate().filter(|(_, b)| wanted(&b.role)).collect();
    // Wide elements first keeps every tensor aligned; then by name.
    buffers.sort_by(|a, b| b.1.dtype.bytes().cmp(&a.1.dtype.bytes()).then_with(|| a.1.name.cmp(&b.1.name)));
    let mut at = 0;
    let info = |b: &athanor_ir::plan::Buffer| {
        let data_offsets = (at, at + b.bytes);
        at += b.bytes;
        (b.name.clone(), TensorInfo { dtype: format_dtype(b.dtype), shape: b.dims.clone(), data_offsets })
    };
    let infos = buffers.iter().map(|(_, b)| *b).map(info).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(metadata), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (i, _) in buffers {
        out.write_all(device.bytes(i))?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
