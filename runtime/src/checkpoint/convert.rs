//! A checkpoint as weights under our names, without a plan: to write it in another naming, or to compare two.

use super::differences::Differences;
use super::elements::{ElementsMut, copy};
use super::load::{Fitted, fit, is_state};
use super::mapping::{Found, Weight, by_weight, map, pieces, unmap};
use super::strided::{Run, Strided};
use super::tensors::{INDEX, Tensors};
use super::write::{Source, write};
use crate::codes::{CKPT_WRITE, TENSORS};
use crate::partial::PartialDir;
use athanor_ir::names::{NameTable, Place};
use athanor_ir::{DType, Diagnostic, Result};
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Elements that are compared at a time.
const PIECE: usize = 1 << 18;

/// An open checkpoint whose tensors are all known.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: Tensors,
    /// Its naming.
    pub table: NameTable,
    /// What it holds.
    pub weights: Vec<Weight>,
    fitted: Vec<Fitted>,
}

/// How a checkpoint is opened.
#[derive(Debug, Clone, Default)]
pub struct Opening<'a> {
    /// Namings that it may have.
    pub tables: &'a [NameTable],
    /// The weights that it must have, if a model says so; what it has otherwise.
    pub expected: Option<&'a [Weight]>,
    /// Type that weights are converted to; their own otherwise, bf16 where they are 8 bits wide.
    pub dtype: Option<DType>,
}

impl Checkpoint {
    /// Opens the weights at `path`, in the naming whose rows know most of its tensors.
    ///
    /// # Errors
    /// As [`Tensors::of`]; [`TENSORS`] with everything that is missing, left over or of another shape. If nothing says what
    /// must be there, a layer without a weight that two others have counts as damaged.
    pub fn open(path: &Path, opening: &Opening<'_>) -> Result<Self> {
        let tensors = Tensors::of(path)?;
        let plain = NameTable::default();
        let known = |t: &NameTable| {
            tensors.names().filter(|n| t.rows.iter().any(|r| Place::of(&r.theirs, n).is_some())).count()
        };
        // The first of equals, as for a plan.
        let best = opening.tables.iter().rev().max_by_key(|t| known(t));
        let table = best.unwrap_or(&plain).clone();
        let mut weights = match opening.expected {
            Some(weights) => weights.to_vec(),
            None => weights_of(&tensors, path, &table)?,
        };
        let fitted = fit(&tensors, path, std::slice::from_ref(&table), &weights)?;
        for f in &fitted {
            let own = tensors.info(&f.name).map(|i| i.dtype);
            let own = if own == Some(Dtype::F8_E4M3) { Some(DType::BF16) } else { tensors.dtype(&f.name).ok() };
            for p in &f.stored.parts {
                let w = &mut weights[p.weight];
                // The bias of a router decides by small differences: it keeps its type.
                let asked = opening.dtype.filter(|_| !w.name.ends_with("e_score_correction_bias"));
                if let Some(d) = asked.or(own) {
                    w.dtype = d;
                }
            }
        }
        let this = Self { path: path.to_path_buf(), tensors, table, weights, fitted };
        if opening.expected.is_none() {
            this.check_layers()?;
        }
        Ok(this)
    }

    /// Its files.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Whether some of its weights are 8 bits wide and scaled.
    pub fn is_scaled(&self) -> bool {
        self.fitted.iter().any(|f| self.tensors.scale_of(&f.name).is_some())
    }

    /// Elements of all weights.
    pub fn elements(&self) -> u64 {
        self.weights.iter().map(|w| w.dims.iter().product::<usize>() as u64).sum()
    }

    /// Layers of a kind have the same weights. What at least two layers have is a kind; a layer with a part of that is not
    /// one of its own. And what is in several layers has the same dims in all.
    fn check_layers(&self) -> Result<()> {
        let mut layers: BTreeMap<(String, usize), BTreeSet<String>> = BTreeMap::new();
        for w in &self.weights {
            if let Some((stem, l, rest)) = layer(&w.name) {
                layers.entry((stem.to_owned(), l)).or_default().insert(rest.to_owned());
            }
        }
        let mut wrong = Differences::default();
        let mut kinds: BTreeMap<&BTreeSet<String>, usize> = BTreeMap::new();
        layers.values().for_each(|names| *kinds.entry(names).or_default() += 1);
        let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
        for ((stem, l), names) in &layers {
            let next = expected.entry(stem).or_default();
            (*next..*l).for_each(|gone| wrong.add(|| format!("missing: everything of `{stem}{gone}.`")));
            *next = l + 1;
            let whole = kinds.iter().find(|(k, n)| **n > 1 && k.is_superset(names) && **k != names);
            for rest in whole.iter().flat_map(|(k, _)| k.difference(names)) {
                wrong.add(|| format!("missing: `{stem}{l}.{rest}`, which other layers have"));
            }
        }
        // So do experts that end too early: their tensor is smaller than in other layers.
        let mut usual: BTreeMap<(&str, &str), BTreeMap<&[usize], usize>> = BTreeMap::new();
        let places = self.weights.iter().filter_map(|w| layer(&w.name).map(|(stem, _, rest)| (w, (stem, rest))));
        for (w, place) in places.clone() {
            *usual.entry(place).or_default().entry(w.dims.as_slice()).or_default() += 1;
        }
        for (w, place) in places {
            let all = usual.get(&place).filter(|all| all.len() > 1);
            let most = all.and_then(|all| all.iter().max_by_key(|(dims, n)| (**n, **dims)));
            if let Some((dims, _)) = most.filter(|(dims, _)| **dims != w.dims) {
                wrong.add(|| format!("`{}` is {:?}; in other layers it is {dims:?}", w.name, w.dims));
            }
        }
        let what = format!("{} is not whole", self.path.display());
        wrong.end(&TENSORS, &what, "download or save the checkpoint again")
    }

    /// Reads it in order of `weights`, telling `progress` how many bytes were written of it.
    pub fn source<'a>(&'a self, progress: &'a dyn Fn(u64)) -> impl Source + 'a {
        FromFiles {
            checkpoint: self,
            parts: self.relations(),
            dtypes: self.weights.iter().map(|w| w.dtype).collect(),
            progress,
        }
    }

    /// For each weight the tensors with elements of it.
    fn relations(&self) -> Vec<Vec<(usize, Strided)>> {
        let stored: Vec<_> = self.fitted.iter().map(|f| f.stored.clone()).collect();
        let refs = by_weight(&stored, self.weights.len());
        refs.into_iter().map(|parts| parts.into_iter().map(|(i, r)| (i, r.clone())).collect()).collect()
    }

    /// The weights that hold NaN or an infinity.
    ///
    /// # Errors
    /// If elements cannot be read.
    pub fn not_finite(&self, progress: &dyn Fn(u64)) -> Result<Differences> {
        let mut wrong = Differences::default();
        let source = FromFiles {
            checkpoint: self,
            parts: self.relations(),
            dtypes: vec![DType::F32; self.weights.len()],
            progress,
        };
        for (i, w) in self.weights.iter().enumerate() {
            let n = w.dims.iter().product();
            let piece = if source.in_pieces(i) { PIECE } else { n };
            let mut bad = 0;
            for range in pieces(n, piece) {
                let bytes = source.read(i, range.clone()).or_else(|e| unreadable(&e))?;
                bad += bytes.as_chunks().0.iter().filter(|b| !f32::from_le_bytes(**b).is_finite()).count();
                progress((range.len() * w.dtype.bytes()) as u64);
            }
            if bad > 0 {
                wrong.add(|| format!("`{}`: {bad} of {n} elements", w.name));
            }
        }
        Ok(wrong)
    }

    /// What differs between the weights of two checkpoints, whatever their namings and types; values are compared exactly.
    ///
    /// # Errors
    /// If elements cannot be read.
    pub fn compare(&self, other: &Self, progress: &dyn Fn(u64)) -> Result<Differences> {
        let mut wrong = Differences::default();
        let index: BTreeMap<&str, usize> =
            other.weights.iter().enumerate().map(|(i, w)| (w.name.as_str(), i)).collect();
        let mut pairs = vec![];
        for (i, w) in self.weights.iter().enumerate() {
            match index.get(w.name.as_str()) {
                None => wrong.add(|| format!("`{}` is only in {}", w.name, self.path.display())),
                Some(j) if other.weights[*j].dims != w.dims => {
                    wrong.add(|| format!("`{}` is {:?} and {:?}", w.name, w.dims, other.weights[*j].dims));
                }
                Some(j) => pairs.push((i, *j)),
            }
        }
        let own: BTreeSet<&str> = self.weights.iter().map(|w| w.name.as_str()).collect();
        let more = other.weights.iter().filter(|w| !own.contains(w.name.as_str()));
        more.for_each(|w| wrong.add(|| format!("`{}` is only in {}", w.name, other.path.display())));
        // Both in the wider type of the two, which loses nothing; f16 and bf16 meet in f32.
        let mut dtypes = [self, other].map(|c| c.weights.iter().map(|w| w.dtype).collect::<Vec<_>>());
        for (i, j) in &pairs {
            let both = [self.weights[*i].dtype, other.weights[*j].dtype];
            let wide = if both[0] == both[1] {
                both[0]
            } else if both.contains(&DType::F64) {
                DType::F64
            } else {
                DType::F32
            };
            (dtypes[0][*i], dtypes[1][*j]) = (wide, wide);
        }
        let [x, y] = dtypes;
        let a = FromFiles { checkpoint: self, parts: self.relations(), dtypes: x, progress };
        let b = FromFiles { checkpoint: other, parts: other.relations(), dtypes: y, progress };
        for (i, j) in pairs {
            let n = self.weights[i].dims.iter().product();
            let piece = if a.in_pieces(i) && b.in_pieces(j) { PIECE } else { n };
            let mut first = None;
            for range in pieces(n, piece) {
                let (x, y) = (a.read(i, range.clone()), b.read(j, range.clone()));
                let (x, y) = (x.or_else(|e| unreadable(&e))?, y.or_else(|e| unreadable(&e))?);
                if x != y {
                    let size = a.dtype(i).bytes();
                    let at = x.chunks(size).zip(y.chunks(size)).position(|(x, y)| x != y).unwrap_or_default();
                    first = Some(range.start + at);
                    break;
                }
                progress(x.len() as u64);
            }
            if let Some(at) = first {
                wrong.add(|| format!("`{}` differs, first at element {at}", self.weights[i].name));
            }
        }
        Ok(wrong)
    }
}

fn unreadable<T>(e: &io::Error) -> Result<T> {
    Diagnostic::error(&TENSORS, format!("cannot read: {e}")).help("look at the file with `athanor inspect`").err()
}

/// `("model.layers.", 3, "mlp.…")` of `model.layers.3.mlp.…`.
fn layer(name: &str) -> Option<(&str, usize, &str)> {
    let at = name.split_inclusive('.').scan(0, |at, part| {
        *at += part.len();
        Some((*at - part.len(), part))
    });
    let (at, part) =
        at.into_iter().find(|(_, p)| p.trim_end_matches('.').bytes().all(|b| b.is_ascii_digit()) && p.len() > 1)?;
    Some((&name[..at], part.trim_end_matches('.').parse().ok()?, &name[at + part.len()..]))
}

/// What the tensors of a checkpoint amount to in the naming of `table`.
fn weights_of(tensors: &Tensors, path: &Path, table: &NameTable) -> Result<Vec<Weight>> {
    let counts = |name: &&str| {
        let copy = table.copies.iter().any(|c| c.theirs == *name);
        !copy && !tensors.is_scale(name) && !table.ignores(name) && !is_state(name)
    };
    let found = tensors.names().filter(counts).filter_map(|n| tensors.info(n).map(|i| (n, i.shape.as_slice())));
    let found: Vec<Found<'_>> = found.collect();
    let weights = unmap(table, &found).or_else(|unfit| {
        let mut wrong = Differences::default();
        unfit.iter().for_each(|u| wrong.add(|| format!("`{}`: {}", u.name, u.why)));
        let what = format!("{} does not suit the names of {}", path.display(), table.name);
        wrong.end(&TENSORS, &what, "check that the configuration is of this checkpoint").map(|()| vec![])
    })?;
    Ok(weights.into_iter().map(|(name, dims)| Weight { name, dtype: DType::F32, dims }).collect())
}

/// Reads weights from files.
struct FromFiles<'a> {
    checkpoint: &'a Checkpoint,
    parts: Vec<Vec<(usize, Strided)>>,
    dtypes: Vec<DType>,
    progress: &'a dyn Fn(u64),
}

impl Source for FromFiles<'_> {
    fn dtype(&self, weight: usize) -> DType {
        self.dtypes[weight]
    }

    fn read(&self, weight: usize, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        let (dtype, c) = (self.dtypes[weight], self.checkpoint);
        let data = |i: usize| c.tensors.data(&c.fitted[i].name).map_err(|e| io::Error::other(*e));
        let near: Vec<_> = self.parts[weight].iter().filter(|(_, r)| r.meets_ours(&range)).collect();
        if let [(i, relation)] = near.as_slice()
            && let Some((ours, theirs)) = relation.is_straight()
            && ours.start <= range.start
            && range.end <= ours.end
        {
            let data = data(*i)?;
            if let (Cow::Borrowed(bytes), true) = (&data.bytes, data.dtype == dtype) {
                let at = theirs + range.start - ours.start;
                return Ok(Cow::Borrowed(&bytes[at * dtype.bytes()..(at + range.len()) * dtype.bytes()]));
            }
        }
        let mut bytes = vec![0; range.len() * dtype.bytes()];
        let mut to = ElementsMut { dtype, bytes: &mut bytes };
        for (i, relation) in near {
            let data = data(*i)?;
            relation.walk_ours(&range, &mut |r| {
                let run =
                    Run { at: r.other, step: r.other_step, other: r.at - range.start, other_step: r.step, n: r.n };
                copy(data.elements(), &mut to, run);
            });
        }
        Ok(Cow::Owned(bytes))
    }

    fn in_pieces(&self, weight: usize) -> bool {
        let c = self.checkpoint;
        self.parts[weight].iter().all(|(i, r)| r.keeps_order() && c.tensors.scale_of(&c.fitted[*i].name).is_none())
    }

    fn in_memory(&self) -> bool {
        false
    }

    fn wrote(&self, bytes: u64) {
        (self.progress)(bytes);
    }
}

/// Writes `from` to directory `to` in the naming of `table`, with what lies beside its weights (configuration, tokenizer);
/// the names of the files with weights.
///
/// # Errors
/// [`CKPT_WRITE`]: nothing is left behind, and nothing that was there is replaced.
pub fn convert(
    from: &Checkpoint,
    table: &NameTable,
    to: &Path,
    limit: u64,
    progress: &dyn Fn(u64),
) -> Result<Vec<String>> {
    let stored = map(table, &from.weights).or_else(|unfit| {
        let mut wrong = Differences::default();
        unfit.iter().for_each(|u| wrong.add(|| format!("`{}`: {}", u.name, u.why)));
        let what = format!("the weights of {} cannot be named as by {}", from.path.display(), table.name);
        wrong.end(&TENSORS, &what, "check that the configuration is of this checkpoint").map(|()| vec![])
    })?;
    let run = || -> io::Result<Vec<String>> {
        if fs::read_dir(to).is_ok_and(|mut d| d.next().is_some()) || to.is_file() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already and not empty"));
        }
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let temp = PartialDir::create(parent, &name)?;
        let files = write(&from.source(progress), &stored, &table.copies, temp.path(), super::tensors::WHOLE, limit)?;
        companions(from, temp.path())?;
        temp.replace(to)?;
        Ok(files)
    };
    run().or_else(|e| {
        Diagnostic::error(&CKPT_WRITE, format!("cannot write {}: {e}", to.display()))
            .help("give a new directory on a disk with room for the weights")
            .err()
    })
}

/// Copies what a model needs beside its weights: JSON files but the index, and the tokenizer's other files.
fn companions(from: &Checkpoint, to: &Path) -> io::Result<()> {
    let dir = if from.path.is_file() { from.path.parent() } else { Some(from.path.as_path()) };
    let Some(dir) = dir else { return Ok(()) };
    for entry in fs::read_dir(dir)?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let kind = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = ["json", "model", "txt", "jinja"].contains(&kind.as_str());
        if !wanted || name == INDEX || name == super::COMMON || name == super::TRACKER || !path.is_file() {
            continue;
        }
        if name == "config.json" && from.is_scaled() {
            // The weights have their scales in them now.
            let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
            if let Some(o) = config.as_object_mut() {
                o.remove("quantization_config");
            }
            fs::write(to.join(name), serde_json::to_vec_pretty(&config)?)?;
        } else {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
