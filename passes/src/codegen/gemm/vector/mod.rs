//! f32 macro-kernels on vector registers, for dense products and those of experts: packed panels of B and strips of A meet
//! in register tiles, in the order that [`Order`] says.

mod blocking;
mod blocks;
mod tile;

pub use blocking::{Blocking, Order};
pub use blocks::{Product, Region};
pub use tile::Tile;

use super::pack::Side;
use super::shift::Shift;
use super::text::{Text, Value};
use super::{Generated, KernelText, Problem};

/// Writes the kernel.
pub fn generate(problem: &Problem) -> Generated {
    let spec = &problem.spec;
    let blocking = Blocking::dense(spec, problem.level);
    let Blocking { mr, nr, .. } = blocking;
    let (m, n, k) = (spec.m, spec.n, spec.k);
    let (a, b) = (Side::rows(spec.a, m, k), Side::cols(spec.b, n, k));
    let (a_type, b_type) = (problem.flat(spec.a, m, k), problem.flat(spec.b, k, n));
    let product = Product {
        tile: Tile {
            symbol: &problem.symbol,
            blocking,
            a: blocking.read_a(&a, &a_type),
            b: format!("memref<{}xf32>", blocking.b_elements()),
            c: (spec.c, problem.flat(spec.c, m, n)),
            residual: problem.residual.map(|r| (r, problem.flat(r, m, n))),
            accumulate: spec.accumulate,
            blocks: blocking.blocks(spec.c.dtype, k),
            ragged: false,
        },
        a: (a, a_type),
        b: (b, b_type),
        m: Some(m),
        n,
    };
    let by_rows = m >= n;
    let (strips, panels) = (m.div_ceil(mr), n.div_ceil(nr));
    let grid = if by_rows { strips } else { panels };
    let mut t = Text::for_level(problem.level);
    product.tiles(&mut t);
    t.line(format_args!("func.func @{}({}) {{", problem.symbol, problem.params(blocking.scratch_bytes())));
    product.scratch(&mut t);
    let mine = (Value::named("lo"), Value::named("hi"));
    let zero = t.index(0);
    let all = t.index(if by_rows { panels } else { strips });
    let all = (zero.clone(), all);
    let (strips, panels) = if by_rows { (mine, all) } else { (all, mine) };
    let k = (zero, t.index(k));
    product.region(&mut t, &Region { strips, rows: None, panels, k, shift: Shift::default() });
    t.line("return\n}");
    let text = KernelText { symbol: problem.symbol.clone(), mlir: t.finish(), buffers: problem.buffers() };
    Generated { text, grid, scratch_bytes_per_worker: blocking.scratch_bytes() }
}
