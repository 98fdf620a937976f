//! From a checkpoint to the buffers of a plan, with every difference reported at once.

use super::differences::Differences;
use super::elements::{ElementsMut, copy};
use super::mapping::{Stored, Weight, map};
use super::strided::Run;
use super::tensors::Tensors;
use crate::codes::TENSORS;
use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::Result;
use athanor_ir::names::NameTable;
use athanor_ir::plan::{Buffer, BufferRole, Plan, Stage};
use athanor_ir::sharding::Slice;
use std::collections::BTreeSet;
use std::path::Path;

/// Elements that are read before their pages go back to the system: a process that loads needs room for so many beside its
/// weights, not for a file.
const PIECE: usize = 1 << 19;

/// Fills every weight of the plan, as rank `rank` holds it, from `path`: a safetensors file, a Hugging Face directory, an
/// iteration directory, or /// the directory above it, in whichever of the plan's namings fits.
///
/// # Errors
/// [`crate::codes::CKPT_OPEN`], [`crate::codes::SAFETENSORS`], and [`TENSORS`] that lists every difference.
pub fn load_weights(device: &mut CpuDevice, rank: usize, path: &Path) -> Result<()> {
    let tensors = Tensors::of(path)?;
    let tables = device.plan().run.weights.clone();
    load(device, rank, &tensors, path, &tables, is_weight)
}

/// Whether buffers of this role are what a model has learnt.
pub(super) fn is_weight(role: &BufferRole) -> bool {
    matches!(role, BufferRole::Weight { .. })
}

/// The buffers of all stages with a role that `wanted` accepts, each name once: their stages and indices, and what mappings
/// need of them, with the dims of the whole.
pub(super) fn weights(plan: &Plan, wanted: impl Fn(&BufferRole) -> bool) -> (Vec<(usize, usize)>, Vec<Weight>) {
    let of_stage = |(s, stage): (usize, &'_ Stage)| {
        let chosen = stage.buffers.iter().enumerate().filter(|(_, b)| wanted(&b.role));
        let weight = |b: &Buffer| Weight { name: b.name.clone(), dtype: b.dtype, dims: b.slice(&plan.mesh, 0).dims };
        chosen.map(|(i, b)| ((s, i), weight(b))).collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    let all = plan.stages.iter().enumerate().flat_map(of_stage);
    all.filter(|(_, w)| seen.insert(w.name.clone())).unzip()
}

/// Fills the buffers with a role that `wanted` accepts, each with the part of rank `rank`.
pub(super) fn load(
    device: &mut CpuDevice,
    rank: usize,
    tensors: &Tensors,
    path: &Path,
    tables: &[NameTable],
    wanted: impl Fn(&BufferRole) -> bool,
) -> Result<()> {
    let (_, weights) = weights(device.plan(), wanted);
    // What the stage of this rank has.
    let buffers: Vec<Option<usize>> = weights.iter().map(|w| device.buffer(&w.name)).collect();
    let slice = |i: usize| device.stage().buffers[i].slice(&device.plan().mesh, rank);
    let slices: Vec<Option<Slice>> = buffers.iter().map(|i| i.map(slice)).collect();
    for Fitted { stored, name } in fit(tensors, path, tables, &weights)? {
        if stored.parts.iter().all(|part| buffers[part.weight].is_none()) {
            continue;
        }
        let data = tensors.data(&name)?;
        let file = tensors.file(&name);
        let read = || file.into_iter().for_each(|f| f.put_away(&name));
        for part in &stored.parts {
            let (Some(buffer), Some(slice)) = (buffers[part.weight], &slices[part.weight]) else { continue };
            let dtype = weights[part.weight].dtype;
            let mut to = ElementsMut { dtype, bytes: device.bytes_mut(buffer) };
            if slice.len == slice.dims {
                let elements = stored.elements();
                for begin in (0..elements).step_by(PIECE) {
                    let piece = begin..elements.min(begin + PIECE);
                    part.relation.walk_theirs(&piece, &mut |run| copy(data.elements(), &mut to, run));
                    read();
                }
                continue;
            }
            for own in slice.runs() {
                part.relation.walk_ours(&(own.global..own.global + own.len), &mut |r| {
                    let other = r.at - own.global + own.local;
                    let run = Run { at: r.other, step: r.other_step, other, other_step: r.step, n: r.n };
                    copy(data.elements(), &mut to, run);
                });
            }
            read();
        }
    }
    Ok(())
}

/// A tensor that weights need, found in a checkpoint.
#[derive(Debug)]
pub struct Fitted {
    /// What it is to be.
    pub stored: Stored,
    /// What it is called there: its name, or that without the prefix that files of a bare model leave out.
    pub name: String,
}

/// A naming, what it makes of the weights, and what the checkpoint calls that.
struct Candidate<'a> {
    known: usize,
    table: &'a NameTable,
    found: Vec<(Option<String>, Stored)>,
}

/// Finds every tensor of `weights` in the checkpoint from `path`, in the one of `tables` that knows most of its names.
///
/// # Errors
/// [`TENSORS`] with everything that is missing, left over or of another shape.
pub fn fit(tensors: &Tensors, path: &Path, tables: &[NameTable], weights: &[Weight]) -> Result<Vec<Fitted>> {
    let plain = [NameTable::default()];
    let tables = if tables.is_empty() { &plain } else { tables };
    let mut wrong = Differences::default();
    let mut best: Option<Candidate<'_>> = None;
    for table in tables {
        let stored = match map(table, weights) {
            Ok(stored) => stored,
            Err(unfit) => {
                unfit.iter().for_each(|u| wrong.add(|| format!("`{}`: {}", u.name, u.why)));
                continue;
            }
        };
        let found: Vec<_> = stored.into_iter().map(|s| (found_name(tensors, &s.name), s)).collect();
        let known = found.iter().filter(|(n, _)| n.is_some()).count();
        if best.as_ref().is_none_or(|b| known > b.known) {
            best = Some(Candidate { known, table, found });
        }
    }
    let what = format!("{} does not fit the model", path.display());
    let Some(Candidate { table, found, .. }) = best else {
        wrong.end(&TENSORS, &what, "compile the configuration again with this version")?;
        return Ok(vec![]);
    };
    let mut wrong = Differences::default();
    let mut fitted = vec![];
    let mut used = BTreeSet::new();
    let mut without_further = false;
    for (name, stored) in found {
        let Some((name, info)) = name.and_then(|n| tensors.info(&n).map(|i| (n, i))) else {
            // Each layer that predicts a further token has one; published files of a base model may have none.
            without_further |= stored.name.ends_with("eh_proj.weight");
            wrong.add(|| format!("missing: `{}` {:?}", stored.name, stored.dims));
            continue;
        };
        if info.shape != stored.dims && Some(&info.shape) != stored.other_dims.as_ref() {
            wrong.add(|| format!("`{name}` is {:?}; the model has {:?}", info.shape, stored.dims));
        } else if let Err(why) = tensors.dtype(&name) {
            wrong.add(|| format!("`{name}`: {why}"));
        }
        used.insert(name.clone());
        fitted.push(Fitted { stored, name });
    }
    for name in tensors.names().filter(|n| !used.contains(*n)) {
        if !tensors.is_scale(name) && !table.ignores(name) && !is_state(name) && !is_copy(table, name) {
            wrong.add(|| format!("unexpected: `{name}`"));
        }
    }
    if wrong.is_empty() {
        check_copies(tensors, table, &mut wrong)?;
    }
    let naming = if table.name.is_empty() { String::new() } else { format!(", named as by {}", table.name) };
    let help = if without_further {
        "`mtp_num_layers: 0` trains without the layer that predicts a further token, which this checkpoint lacks"
    } else {
        "check that the checkpoint is of this model's size and family, and not damaged"
    };
    wrong.end(&TENSORS, &format!("{what}{naming}"), help)?;
    Ok(fitted)
}

/// The stored name of `name`: the same, or without the prefix that files of a bare model leave out.
fn found_name(tensors: &Tensors, name: &str) -> Option<String> {
    let bare = ["transformer.", "model."].iter().find_map(|p| name.strip_prefix(p));
    [Some(name), bare].into_iter().flatten().find(|n| tensors.info(n).is_some()).map(str::to_owned)
}

fn is_copy(table: &NameTable, name: &str) -> bool {
    table.copies.iter().any(|c| c.theirs == name)
}

/// What a file has twice must be the same twice: a model has it once.
fn check_copies(tensors: &Tensors, table: &NameTable, wrong: &mut Differences) -> Result<()> {
    for c in &table.copies {
        let Some(of) = found_name(tensors, &c.of) else { continue };
        let Some(info) = tensors.info(&c.theirs) else { continue };
        let same = tensors.info(&of).is_some_and(|o| o.shape == info.shape)
            && tensors.dtype(&c.theirs).is_ok()
            && tensors.equal(&c.theirs, &of)?;
        if !same {
            wrong.add(|| format!("`{}` differs from `{of}`, and the model has one weight for both", c.theirs));
        }
    }
    Ok(())
}

/// State of the optimizer and counters, which files of `MindFormers` have beside the weights and which are read apart.
pub(super) fn is_state(name: &str) -> bool {
    const COUNTERS: [&str; 6] =
        ["epoch_num", "step_num", "global_step", "loss_scale", "global_batch_size", "consumed_samples"];
    name.starts_with("adam_m.") || name.starts_with("adam_v.") || COUNTERS.contains(&name)
}
