//! The iteration space of a fused group: R rows of C columns, and how each value lies in it.

use athanor_ir::func::{Func, ValueId};
use athanor_ir::op::Op;
use athanor_ir::types::{DType, TensorType};

/// How a value varies over the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// An element at every row and column.
    Full,
    /// One element per row.
    Row,
    /// One element per column.
    Col,
    /// One element.
    Scalar,
}

/// The space and the class of every value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Rows: the dims before the split, independent of one another but for sums per column.
    pub rows: usize,
    /// Columns: the dims from the split on, walked by the innermost loop.
    pub cols: usize,
    /// By value.
    pub classes: Vec<Class>,
}

/// Columns of a group without row ops are at most this many, so that rows can be dealt to workers.
const FLAT_COLS: usize = 4096;

/// How the ops of a group split its elements into rows and columns.
enum Split {
    /// They ask for so many columns.
    Columns(usize),
    /// Any split will do.
    Any,
    /// They disagree.
    None,
}

fn split_of(func: &Func) -> Split {
    let mut cols: Option<usize> = None;
    let mut agree = |c: usize| {
        let ok = cols.is_none_or(|known| known == c);
        cols = Some(c);
        ok
    };
    for node in &func.nodes {
        match &node.op {
            Op::Reduce { dims, .. } => {
                let ty = func.ty(node.inputs[0]);
                let trailing = dims.iter().copied().eq(ty.rank() - dims.len()..ty.rank());
                let leading = dims.iter().copied().eq(0..dims.len());
                let inside: usize = dims.iter().map(|d| ty.dims[*d]).product();
                if dims.len() == ty.rank() || !(trailing || leading) {
                    return Split::None;
                }
                if !agree(if trailing { inside } else { ty.elements() / inside }) {
                    return Split::None;
                }
            }
            Op::Broadcast { dims } if !dims.is_empty() => {
                let (from, to) = (func.ty(node.inputs[0]), func.ty(node.outputs[0]));
                let leading = dims.iter().copied().eq(0..dims.len());
                let trailing = dims.iter().copied().eq(to.rank() - dims.len()..to.rank());
                if !(leading || trailing) {
                    return Split::None;
                }
                if !agree(if trailing { from.elements() } else { to.elements() / from.elements() }) {
                    return Split::None;
                }
            }
            _ => {}
        }
    }
    cols.map_or(Split::Any, Split::Columns)
}

/// The largest divisor of `n` up to [`FLAT_COLS`], a multiple of 64 if there is one.
fn flat_cols(n: usize) -> usize {
    let fits = |step: usize| (1..=FLAT_COLS / step).rev().map(|k| k * step).find(|c| n.is_multiple_of(*c));
    fits(64).or_else(|| fits(1)).unwrap_or(1)
}

/// The iteration space of `func`, whose ops are element-wise, broadcasts, reshapes and reductions, or `None` when they do
/// not share one.
pub fn domain(func: &Func) -> Option<Domain> {
    let supported = |t: &TensorType| matches!(t.dtype, DType::F32 | DType::BF16 | DType::F16);
    if !func.types.iter().all(supported) {
        return None;
    }
    let elements = func.types.iter().map(TensorType::elements).max()?;
    let cols = match split_of(func) {
        Split::Columns(c) => c,
        Split::Any => flat_cols(elements),
        Split::None => return None,
    };
    if cols == 0 || !elements.is_multiple_of(cols) {
        return None;
    }
    let rows = elements / cols;
    let mut classes: Vec<Option<Class>> = func
        .types
        .iter()
        .map(|t| match t.elements() {
            n if n == elements => Some(Class::Full),
            _ if t.rank() == 0 => Some(Class::Scalar),
            n if n == rows && rows != cols => Some(Class::Row),
            n if n == cols && rows != cols => Some(Class::Col),
            n if n == rows => None,
            // Sizes that are no part of the space.
            _ => Some(Class::Scalar),
        })
        .collect();
    if func.types.iter().zip(&classes).any(|(t, c)| *c == Some(Class::Scalar) && t.rank() > 0) {
        return None;
    }
    // As many rows as columns: the ops tell the rest, in a few sweeps since groups are small.
    for _ in 0..func.nodes.len() {
        for node in &func.nodes {
            let out = node.outputs[0];
            match &node.op {
                Op::Reduce { dims, .. } => {
                    let class = if dims[0] == 0 { Class::Col } else { Class::Row };
                    classes[out.0 as usize].get_or_insert(class);
                }
                Op::Broadcast { dims } if !dims.is_empty() => {
                    let class = if dims[0] == 0 { Class::Row } else { Class::Col };
                    classes[node.inputs[0].0 as usize].get_or_insert(class);
                }
                _ => {
                    let all = || node.inputs.iter().chain(&node.outputs);
                    if let Some(class) = all().find_map(|v| classes[v.0 as usize]) {
                        all().for_each(|v| _ = classes[v.0 as usize].get_or_insert(class));
                    }
                }
            }
        }
    }
    let classes: Vec<Class> = classes.into_iter().map(|c| c.unwrap_or(Class::Col)).collect();
    let d = Domain { rows, cols, classes };
    consistent(func, &d).then_some(d)
}

/// Whether every op combines values of the classes it can.
fn consistent(func: &Func, d: &Domain) -> bool {
    let class = |v: ValueId| d.classes[v.0 as usize];
    func.nodes.iter().all(|node| {
        let out = class(node.outputs[0]);
        match &node.op {
            Op::Reduce { dims, .. } => {
                class(node.inputs[0]) == Class::Full && out == if dims[0] == 0 { Class::Col } else { Class::Row }
            }
            Op::Broadcast { .. } => out == Class::Full || class(node.inputs[0]) == Class::Scalar && out == Class::Row,
            Op::Constant { .. } => true,
            Op::Unary(_) | Op::Binary(_) | Op::Cast | Op::Reshape => node.inputs.iter().all(|v| class(*v) == out),
            _ => false,
        }
    })
}
