//! From the weights of a plan and a table to the tensors of a file, and where each element lies.

use super::strided::{Loop, Strided};
use athanor_ir::DType;
use athanor_ir::names::{Blocks, Layout, NameTable, Place, Row};
use std::collections::HashMap;
use std::ops::Range;

/// A weight of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Name in the plan.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Dims.
    pub dims: Vec<usize>,
}

/// Part of a tensor of a file that comes from one of our weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index of the weight.
    pub weight: usize,
    /// Which elements are which.
    pub relation: Strided,
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Name in the file.
    pub name: String,
    /// Dims in the file.
    pub dims: Vec<usize>,
    /// Dims that are as good, with the elements in the same order.
    pub other_dims: Option<Vec<usize>>,
    /// Parts, which cover it without overlap.
    pub parts: Vec<Part>,
    /// Elements of it that depend on few of ours, side by side: an expert of many, or all.
    pub slab: usize,
}

impl Stored {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// What [`map`] needs to say about a weight that a row cannot lay out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// The tensors that hold `weights` in the naming of `table`, in the order of the weights.
///
/// # Errors
/// The weights whose dims do not suit the row that names them.
pub fn map(table: &NameTable, weights: &[Weight]) -> Result<Vec<Stored>, Vec<Unfit>> {
    let index: HashMap<&str, usize> = weights.iter().enumerate().map(|(i, w)| (w.name.as_str(), i)).collect();
    let mut done = vec![false; weights.len()];
    let mut stored = vec![];
    let mut unfit = vec![];
    for (i, w) in weights.iter().enumerate() {
        if done[i] {
            continue;
        }
        let Some((row, place, members)) = find(table, &index, &w.name) else {
            done[i] = true;
            stored.push(same(w.name.clone(), i, w));
            continue;
        };
        members.iter().for_each(|m| done[*m] = true);
        let first = stored.len();
        let dims: Vec<&[usize]> = members.iter().map(|m| weights[*m].dims.as_slice()).collect();
        let made = match &row.layout {
            Layout::Same => {
                stored.push(same(place.fill(&row.theirs), 0, &weights[members[0]]));
                Ok(())
            }
            Layout::PerExpert => per_expert(&dims).map(|tensors| {
                let named = |(e, mut t): (usize, Stored)| {
                    t.name = place.expert(e).fill(&row.theirs);
                    t
                };
                stored.extend(tensors.into_iter().enumerate().map(named));
            }),
            Layout::Joined { blocks, .. } => joined(&dims, *blocks).map(|t| stored.push(t)),
            Layout::Experts { experts, flat, .. } => transposed(&dims, *experts, *flat).map(|t| stored.push(t)),
        };
        match made {
            Ok(()) => {
                for t in &mut stored[first..] {
                    if t.name.is_empty() {
                        t.name = place.fill(&row.theirs);
                    }
                    t.parts.iter_mut().for_each(|p| p.weight = members[p.weight]);
                }
            }
            Err(why) => unfit.push(Unfit { name: w.name.clone(), why: format!("{why} ({})", row.theirs) }),
        }
    }
    if unfit.is_empty() { Ok(stored) } else { Err(unfit) }
}

/// The first row about `name` all of whose weights are there, with them.
fn find<'t>(table: &'t NameTable, index: &HashMap<&str, usize>, name: &str) -> Option<(&'t Row, Place, Vec<usize>)> {
    table.rows.iter().find_map(|row| {
        let place = row.of_ours(name)?;
        let members: Option<Vec<usize>> = row.ours.iter().map(|p| index.get(place.fill(p).as_str()).copied()).collect();
        Some((row, place, members?))
    })
}

/// A tensor without a name, of parts that name their weight by its place in the row.
fn tensor(dims: Vec<usize>, parts: Vec<Strided>) -> Stored {
    let slab = dims.iter().product();
    let parts = parts.into_iter().enumerate().map(|(weight, relation)| Part { weight, relation }).collect();
    Stored { name: String::new(), dims, other_dims: None, parts, slab }
}

/// One weight as it is.
fn same(name: String, weight: usize, w: &Weight) -> Stored {
    let n = w.dims.iter().product();
    let parts = vec![Part { weight, relation: Strided::straight(0, 0, n) }];
    Stored { name, dims: w.dims.clone(), other_dims: None, parts, slab: n }
}

fn per_expert(dims: &[&[usize]]) -> Result<Vec<Stored>, String> {
    let Some((experts, rest)) = dims[0].split_first() else { return Err("it has no dim of experts".into()) };
    let n: usize = rest.iter().product();
    Ok((0..*experts).map(|e| tensor(rest.to_vec(), vec![Strided::straight(e * n, 0, n)])).collect())
}

fn joined(dims: &[&[usize]], blocks: Blocks) -> Result<Stored, String> {
    let mut rows = vec![];
    let rest = dims[0].get(1..).ok_or("it has no rows")?;
    for d in dims {
        if d.get(1..) != Some(rest) {
            return Err(format!("{d:?} cannot be joined to {:?}", dims[0]));
        }
        rows.push(d[0]);
    }
    let blocks = match blocks {
        Blocks::One => 1,
        Blocks::Count(n) => n.max(1),
        Blocks::EveryRow => rows[0].max(1),
    };
    if let Some(r) = rows.iter().find(|r| !r.is_multiple_of(blocks)) {
        return Err(format!("{r} rows are no {blocks} equal blocks"));
    }
    let width: usize = rest.iter().product();
    let total: usize = rows.iter().sum();
    let mut before = 0;
    let part = |r: &usize| {
        let (own, all) = (r / blocks * width, total / blocks * width);
        let loops = [Loop { n: blocks, ours: own, theirs: all }, Loop { n: own, ours: 1, theirs: 1 }];
        let start = before;
        before += own;
        Strided::new(0, start, &loops)
    };
    let parts = rows.iter().map(part).collect();
    Ok(tensor([&[total], rest].concat(), parts))
}

fn transposed(dims: &[&[usize]], experts: usize, flat: bool) -> Result<Stored, String> {
    let mut wide = vec![];
    let mut deep = None;
    for d in dims {
        let &[e, f, h] = *d else { return Err(format!("{d:?} are no experts' dims")) };
        if e != experts || *deep.get_or_insert(h) != h {
            return Err(format!("{d:?} are not {experts} experts of one width"));
        }
        wide.push(f);
    }
    let (h, total) = (deep.unwrap_or_default(), wide.iter().sum::<usize>());
    let mut before = 0;
    let part = |f: &usize| {
        let loops = [
            Loop { n: experts, ours: f * h, theirs: h * total },
            Loop { n: h, ours: 1, theirs: total },
            Loop { n: *f, ours: h, theirs: 1 },
        ];
        let start = before;
        before += f;
        Strided::new(0, start, &loops)
    };
    let mut out = tensor(vec![experts, h, total], wide.iter().map(part).collect());
    out.slab = h * total;
    let merged = vec![experts * h, total];
    out.other_dims = Some(if flat { std::mem::replace(&mut out.dims, merged) } else { merged });
    Ok(out)
}

/// A tensor that a file has: name and dims.
pub type Found<'a> = (&'a str, &'a [usize]);

/// The weights that the tensors of a file amount to, which is what [`map`] undoes; types are the caller's.
///
/// # Errors
/// Tensors that do not suit the row that names them.
pub fn unmap(table: &NameTable, found: &[Found<'_>]) -> Result<Vec<(String, Vec<usize>)>, Vec<Unfit>> {
    let mut weights: Vec<(String, Vec<usize>)> = vec![];
    let mut experts: HashMap<String, Vec<(usize, &[usize])>> = HashMap::new();
    let mut unfit = vec![];
    let mut fail = |name: &str, why: String| unfit.push(Unfit { name: name.to_owned(), why });
    for (name, dims) in found {
        let row = table.rows.iter().find_map(|r| Some((r, Place::of(&r.theirs, name)?)));
        let Some((row, place)) = row else {
            weights.push(((*name).to_owned(), dims.to_vec()));
            continue;
        };
        let ours = |i: usize| place.fill(&row.ours[i]);
        match &row.layout {
            Layout::Same => weights.push((ours(0), dims.to_vec())),
            Layout::PerExpert => {
                let known = experts.entry(ours(0)).or_default();
                if known.is_empty() {
                    // Its place in the order; the dims follow when all experts are known.
                    weights.push((ours(0), vec![]));
                }
                known.push((place.e.unwrap_or_default(), dims));
            }
            Layout::Joined { shares, .. } => match dims.split_first() {
                Some((rows, rest)) => match parts(*rows, shares, row.ours.len()) {
                    Some(p) => weights.extend(p.iter().enumerate().map(|(i, r)| (ours(i), [&[*r], rest].concat()))),
                    None => fail(name, format!("{rows} rows cannot be shared as {shares:?}")),
                },
                None => fail(name, "it has no rows".into()),
            },
            Layout::Experts { experts: e, shares, .. } => {
                let h = match **dims {
                    [n, h, _] if n == *e => Some(h),
                    [n, _] if *e > 0 && n.is_multiple_of(*e) => Some(n / e),
                    _ => None,
                };
                match (h, dims.last().and_then(|w| parts(*w, shares, row.ours.len()))) {
                    (Some(h), Some(p)) => weights.extend(p.iter().enumerate().map(|(i, f)| (ours(i), vec![*e, *f, h]))),
                    _ => fail(name, format!("{dims:?} are not {e} experts, shared as {shares:?}")),
                }
            }
        }
    }
    for (name, dims) in &mut weights {
        let Some(known) = experts.get_mut(name) else { continue };
        known.sort_unstable();
        let there: Vec<usize> = known.iter().map(|k| k.0).collect();
        let gone: Vec<usize> =
            (0..=*there.last().unwrap_or(&0)).filter(|e| there.binary_search(e).is_err()).take(12).collect();
        if !gone.is_empty() {
            fail(name, format!("experts {gone:?} are missing"));
        } else if let Some((e, d)) = known.iter().find(|k| k.1 != known[0].1) {
            fail(name, format!("expert {e} is {d:?}, the first one {:?}", known[0].1));
        } else {
            *dims = [&[known.len()], known[0].1].concat();
        }
    }
    if unfit.is_empty() { Ok(weights) } else { Err(unfit) }
}

fn parts(total: usize, shares: &[usize], members: usize) -> Option<Vec<usize>> {
    let sum: usize = shares.iter().sum();
    let fits = shares.len() == members && sum > 0 && total.is_multiple_of(sum);
    fits.then(|| shares.iter().map(|s| total / sum * s).collect())
}

/// For each of `weights` weights, the tensors with elements of it, with the part.
pub fn by_weight(stored: &[Stored], weights: usize) -> Vec<Vec<(usize, &Strided)>> {
    let mut out = vec![vec![]; weights];
    for (i, s) in stored.iter().enumerate() {
        for p in &s.parts {
            out[p.weight].push((i, &p.relation));
        }
    }
    out
}

/// `0..n` in pieces of at most `most` (at least 1).
pub fn pieces(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let most = most.max(1);
    (0..n).step_by(most).map(move |at| at..n.min(at.saturating_add(most)))
}
