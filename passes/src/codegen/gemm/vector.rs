//! f32 macro-kernels on vector registers: packed panels of B stream from the L2 cache past a strip of A.

use athanor_ir::DType;
use athanor_ir::plan::GemmSpec;
use athanor_ir::target::CpuLevel;

use super::pack::{Panels, Side, load, narrow_to, pack_panel, storage};
use super::text::{Text, Value};
use super::{GeneratedGemm, KernelText, Problem};

/// Sizes of the register tile and of the cache blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocking {
    /// f32 in a vector.
    lanes: usize,
    /// Rows of the register tile.
    mr: usize,
    /// Columns of the register tile: two vectors.
    nr: usize,
    /// `mr` up to whole vectors: the width of a packed strip of A.
    strip: usize,
    /// Depth of a packed panel.
    kc: usize,
    /// Panels of B packed at a time.
    panels: usize,
    /// Whether strips of A are packed, or read in place.
    pack_a: bool,
    /// Turns of the inner loop written out.
    unroll: usize,
}

/// Bytes of packed B that stay in the L2 cache beside the rest.
const B_BYTES: usize = 1 << 20;

impl Blocking {
    fn new(spec: &GemmSpec, level: CpuLevel) -> Self {
        let lanes = level.f32_lanes();
        // As many sums as the register file holds beside two vectors of B and a broadcast: 28 of 32, or 12 of 16.
        let mr = if level >= CpuLevel::Avx512 { 14 } else { 6 };
        let nr = 2 * lanes;
        // A narrow result is rounded once, so its sums must not leave the registers.
        let kc = if spec.c.dtype != DType::F32 { spec.k } else { spec.k.min(KC) };
        let panels = (B_BYTES / (kc * nr * 4)).clamp(1, spec.n.div_ceil(nr));
        // In place only if k is contiguous and the rows of a tile do not fall into the same few cache sets.
        let in_place =
            spec.a.dtype == DType::F32 && spec.a.col_stride == 1 && !(spec.a.row_stride * 4).is_multiple_of(4096);
        let unroll = [4, 2].into_iter().find(|u| spec.k.is_multiple_of(*u) && kc.is_multiple_of(*u)).unwrap_or(1);
        Self { lanes, mr, nr, strip: mr.next_multiple_of(lanes), kc, panels, pack_a: !in_place, unroll }
    }

    /// Depth of a panel in memory: transposing writes whole vectors.
    fn depth(&self) -> usize {
        self.kc.next_multiple_of(self.lanes)
    }

    fn b_elements(&self) -> usize {
        self.depth() * self.nr * self.panels
    }

    fn a_elements(&self) -> usize {
        if self.pack_a { self.depth() * self.strip } else { 0 }
    }

    fn scratch_bytes(&self) -> usize {
        ((self.b_elements() + self.a_elements()) * 4).next_multiple_of(4096)
    }
}

const KC: usize = 512;

/// Writes the kernel.
pub fn generate(problem: &Problem) -> GeneratedGemm {
    let writer = Writer { p: problem, s: &problem.spec, blocking: Blocking::new(&problem.spec, problem.level) };
    let spec = writer.s;
    let by_rows = spec.m >= spec.n;
    let grid = if by_rows { spec.m.div_ceil(writer.blocking.mr) } else { spec.n.div_ceil(writer.blocking.nr) };
    let mut t = Text::for_level(problem.level);
    let rows = [(spec.m >= writer.blocking.mr).then_some(writer.blocking.mr), writer.row_edge()];
    for rows in rows.into_iter().flatten() {
        if spec.n >= writer.blocking.nr {
            writer.micro(&mut t, rows, false);
        }
        if writer.column_edge() {
            writer.micro(&mut t, rows, true);
        }
    }
    writer.macro_kernel(&mut t, by_rows);
    let text = KernelText { symbol: problem.symbol.clone(), mlir: t.finish(), buffers: problem.buffers() };
    GeneratedGemm { text, grid, scratch_bytes_per_worker: writer.blocking.scratch_bytes() }
}

struct Writer<'a> {
    p: &'a Problem,
    s: &'a GemmSpec,
    blocking: Blocking,
}

/// A block of the loops around the register tiles.
struct Block {
    /// Packed panels `first_panel..last_panel`.
    first_panel: Value,
    last_panel: Value,
    /// k from `k_lo` to `k_hi`.
    k_lo: Value,
    k_hi: Value,
    depth: Value,
    /// This is the first block of k.
    first: Value,
}

impl Writer<'_> {
    /// Rows of the last strip when it is not whole.
    fn row_edge(&self) -> Option<usize> {
        let rest = self.s.m % self.blocking.mr;
        (rest > 0).then_some(rest)
    }

    /// Whether the last panel is not whole.
    fn column_edge(&self) -> bool {
        !self.s.n.is_multiple_of(self.blocking.nr)
    }

    fn b_type(&self) -> String {
        format!("memref<{}xf32>", self.blocking.b_elements())
    }

    /// Type of what the register tile reads A from: the operand, or a packed strip.
    fn a_type(&self) -> String {
        if self.blocking.pack_a {
            format!("memref<{}xf32>", self.blocking.a_elements())
        } else {
            self.p.flat(self.s.a, self.s.m, self.s.k)
        }
    }

    fn micro_name(&self, rows: usize, edge: bool) -> String {
        format!("{}_tile{rows}{}", self.p.symbol, if edge { "_edge" } else { "" })
    }

    fn micro_types(&self) -> String {
        let residual = self.p.residual.map_or(String::new(), |r| format!("{}, ", self.p.flat(r, self.s.m, self.s.n)));
        format!(
            "{}, index, {}, index, {residual}{}, index, index, index, i1",
            self.a_type(),
            self.b_type(),
            self.p.flat(self.s.c, self.s.m, self.s.n)
        )
    }

    /// The register tile: `rows` × nr of C, over one block of k.
    fn micro(&self, t: &mut Text, rows: usize, edge: bool) {
        let Blocking { lanes, nr, unroll, .. } = self.blocking;
        let (a_row, a_col) =
            if self.blocking.pack_a { (1, self.blocking.strip) } else { (self.s.a.row_stride, self.s.a.col_stride) };
        let names = ["%a", "%ao", "%bp", "%bo", "%r", "%c", "%row", "%col", "%depth", "%first"];
        let names = names.into_iter().filter(|n| *n != "%r" || self.p.residual.is_some());
        let types = self.micro_types();
        let params: Vec<String> = names.zip(types.split(", ")).map(|(n, ty)| format!("{n}: {ty}")).collect();
        t.line(format_args!("func.func private @{}({}) {{", self.micro_name(rows, edge), params.join(", ")));

        let vector = format!("vector<{lanes}xf32>");
        let (ao, bo, depth) = (Value::named("ao"), Value::named("bo"), Value::named("depth"));
        let (a_type, b_type) = (self.a_type(), self.b_type());
        let zero = t.index(0);
        let none = t.op(format_args!("arith.constant dense<0.0> : {vector}"));
        let sums = t.for_carry((&zero, &depth, unroll), &vec![none; rows * 2], &vector, |t, k, mut sums| {
            let a_base = t.offset((&ao, 1), (k, a_col));
            let b_base = t.offset((&bo, 1), (k, nr));
            for u in 0..unroll {
                let b: Vec<Value> = (0..2)
                    .map(|h| {
                        let at = t.add_const(&b_base, u * nr + h * lanes);
                        t.op(format_args!("vector.load %bp[{at}] : {b_type}, {vector}"))
                    })
                    .collect();
                for i in 0..rows {
                    let at = t.add_const(&a_base, i * a_row + u * a_col);
                    let a = t.op(format_args!("memref.load %a[{at}] : {a_type}"));
                    let a = t.op(format_args!("vector.broadcast {a} : f32 to {vector}"));
                    for (h, b) in b.iter().enumerate() {
                        let sum = &mut sums[i * 2 + h];
                        *sum = t.op(format_args!("vector.fma {a}, {b}, {sum} : {vector}"));
                    }
                }
            }
            sums
        });
        self.write_back(t, rows, edge, &sums);
        t.line("return\n}");
    }

    /// Adds what is to be added and writes the tile to C.
    fn write_back(&self, t: &mut Text, rows: usize, edge: bool, sums: &[Value]) {
        // Columns of each vector that exist.
        let columns = if edge { self.s.n % self.blocking.nr } else { self.blocking.nr };
        let lanes = [columns.min(self.blocking.lanes), columns.saturating_sub(self.blocking.lanes)];
        let first_only = self.blocking.kc >= self.s.k;
        if self.s.accumulate {
            self.write_tile(t, rows, lanes, sums, Addend::C);
        } else {
            let initial = if self.p.residual.is_some() { Addend::Residual } else { Addend::Nothing };
            if first_only {
                self.write_tile(t, rows, lanes, sums, initial);
            } else {
                t.choose(
                    &Value::named("first"),
                    |t| self.write_tile(t, rows, lanes, sums, initial),
                    |t| self.write_tile(t, rows, lanes, sums, Addend::C),
                );
            }
        }
    }

    fn write_tile(&self, t: &mut Text, rows: usize, columns: [usize; 2], sums: &[Value], addend: Addend) {
        let lanes = self.blocking.lanes;
        let (row, col) = (Value::named("row"), Value::named("col"));
        let wide = format!("vector<{lanes}xf32>");
        let c_type = self.p.flat(self.s.c, self.s.m, self.s.n);
        let base = t.offset((&row, self.s.c.row_stride), (&col, 1));
        let r_base = self.p.residual.map(|r| t.offset((&row, r.row_stride), (&col, 1)));
        let masks = columns.map(|count| {
            (0 < count && count < lanes).then(|| {
                let count = t.index(count);
                t.op(format_args!("vector.create_mask {count} : vector<{lanes}xi1>"))
            })
        });
        for i in 0..rows {
            for h in (0..2).filter(|h| columns[*h] > 0) {
                let mask = masks[h].as_ref();
                let at = t.add_const(&base, i * self.s.c.row_stride + h * lanes);
                let mut sum = sums[i * 2 + h].clone();
                let other = match (addend, self.p.residual, &r_base) {
                    (Addend::C, ..) => Some(load(t, lanes, ("%c", &c_type), self.s.c.dtype, &at, mask)),
                    (Addend::Residual, Some(r), Some(base)) => {
                        let at = t.add_const(base, i * r.row_stride + h * lanes);
                        Some(load(t, lanes, ("%r", &self.p.flat(r, self.s.m, self.s.n)), r.dtype, &at, mask))
                    }
                    _ => None,
                };
                if let Some(other) = other {
                    sum = t.op(format_args!("arith.addf {sum}, {other} : {wide}"));
                }
                let mut ty = wide.clone();
                if self.s.c.dtype != DType::F32 {
                    ty = format!("vector<{lanes}xi16>");
                    sum = narrow_to(t, lanes, &sum, self.s.c.dtype);
                }
                match mask {
                    // LLVM 22 writes 32 bits for a truncating store whose mask is a constant with one lane.
                    Some(_) if columns[h] == 1 => {
                        let one = t.op(format_args!("vector.extract {sum}[0] : {} from {ty}", storage(self.s.c.dtype)));
                        t.line(format_args!("memref.store {one}, %c[{at}] : {c_type}"));
                    }
                    None => t.line(format_args!("vector.store {sum}, %c[{at}] : {c_type}, {ty}")),
                    Some(mask) => t.line(format_args!(
                        "vector.maskedstore %c[{at}], {mask}, {sum} : {c_type}, vector<{lanes}xi1>, {ty}"
                    )),
                }
            }
        }
    }

    /// The exported function: loops over blocks of columns, of k, over strips and panels.
    fn macro_kernel(&self, t: &mut Text, by_rows: bool) {
        let Blocking { mr, nr, kc, panels, .. } = self.blocking;
        let scratch = self.blocking.scratch_bytes();
        t.line(format_args!("func.func @{}({}) {{", self.p.symbol, self.p.params(scratch)));
        let start = t.mul_const(&Value::named("worker"), scratch);
        let scratch_type = format!("memref<{}xi8>", scratch * super::MAX_WORKERS);
        t.line(format_args!("%bp = memref.view %scratch[{start}][] : {scratch_type} to {}", self.b_type()));
        if self.blocking.pack_a {
            let start = t.add_const(&start, self.blocking.b_elements() * 4);
            t.line(format_args!("%ap = memref.view %scratch[{start}][] : {scratch_type} to {}", self.a_type()));
        }
        let (lo, hi) = (Value::named("lo"), Value::named("hi"));
        let zero = t.index(0);
        let (strips, columns) = if by_rows {
            let all = t.index(self.s.n.div_ceil(nr));
            ((lo, hi), (zero.clone(), all))
        } else {
            let all = t.index(self.s.m.div_ceil(mr));
            ((zero.clone(), all), (lo, hi))
        };
        let k_end = t.index(self.s.k);
        t.for_each(&columns.0, &columns.1, panels, |t, first_panel| {
            let last_panel = t.add_const(first_panel, panels);
            let last_panel = t.min(&last_panel, &columns.1);
            t.for_each(&zero, &k_end, kc, |t, k_lo| {
                let k_hi = t.add_const(k_lo, kc);
                let k_hi = t.min(&k_hi, &k_end);
                let block = Block {
                    first_panel: first_panel.clone(),
                    last_panel: last_panel.clone(),
                    depth: t.sub(&k_hi, k_lo),
                    first: t.compare("eq", k_lo, &zero),
                    k_lo: k_lo.clone(),
                    k_hi,
                };
                self.pack_b(t, &block);
                self.strips(t, &strips, &block);
            });
        });
        t.line("return\n}");
    }

    /// Runs `body` for whole items `lo..hi` of `extent/size`, and apart for the last one if it is not whole.
    fn whole_and_edge(
        t: &mut Text,
        (lo, hi): (&Value, &Value),
        (extent, size): (usize, usize),
        mut body: impl FnMut(&mut Text, &Value, Option<usize>),
    ) {
        let whole = t.index(extent / size);
        let end = t.min(hi, &whole);
        if extent >= size {
            t.for_each(lo, &end, 1, |t, item| body(t, item, None));
        }
        if !extent.is_multiple_of(size) {
            // The edge belongs to this range only if the range reaches it.
            let here = t.compare("ugt", hi, &whole);
            t.when(&here, |t| body(t, &whole, Some(extent % size)));
        }
    }

    fn pack_b(&self, t: &mut Text, block: &Block) {
        let Blocking { lanes, nr, .. } = self.blocking;
        let side = Side::cols(self.s.b, self.s.n, self.s.k);
        let (b_type, packed) = (self.p.flat(self.s.b, self.s.k, self.s.n), self.b_type());
        Self::whole_and_edge(t, (&block.first_panel, &block.last_panel), (self.s.n, nr), |t, panel, edge| {
            let first = t.mul_const(panel, nr);
            let index = t.sub(panel, &block.first_panel);
            let target = t.mul_const(&index, self.blocking.depth() * nr);
            let panels = Panels { memref: ("%bp", &packed), width: nr };
            let k = (&block.k_lo, &block.k_hi);
            pack_panel(t, lanes, side, ("%b", &b_type), (&first, edge.is_none()), k, panels, &target);
        });
    }

    fn strips(&self, t: &mut Text, range: &(Value, Value), block: &Block) {
        let Blocking { lanes, mr, nr, strip, .. } = self.blocking;
        let side = Side::rows(self.s.a, self.s.m, self.s.k);
        Self::whole_and_edge(t, (&range.0, &range.1), (self.s.m, mr), |t, index, edge| {
            let row = t.mul_const(index, mr);
            let (a, a_offset) = if self.blocking.pack_a {
                let zero = t.index(0);
                let (a_type, packed) = (self.p.flat(self.s.a, self.s.m, self.s.k), self.a_type());
                let panels = Panels { memref: ("%ap", &packed), width: strip };
                let k = (&block.k_lo, &block.k_hi);
                let pack = |t: &mut Text, full: bool| {
                    pack_panel(t, lanes, side, ("%a", &a_type), (&row, full), k, panels, &zero);
                };
                if side.across == 1 && self.s.m >= strip {
                    // A packed strip is wider than the tile, so near the end it would reach beyond A.
                    let inside = t.index(self.s.m - strip + 1);
                    let inside = t.compare("ult", &row, &inside);
                    t.choose(&inside, |t| pack(t, true), |t| pack(t, false));
                } else {
                    pack(t, false);
                }
                ("%ap", zero)
            } else {
                let base = t.mul_const(&row, self.s.a.row_stride);
                ("%a", t.offset((&base, 1), (&block.k_lo, self.s.a.col_stride)))
            };
            let rows = edge.unwrap_or(mr);
            Self::whole_and_edge(t, (&block.first_panel, &block.last_panel), (self.s.n, nr), |t, panel, edge| {
                let inner = t.sub(panel, &block.first_panel);
                let b_offset = t.mul_const(&inner, self.blocking.depth() * nr);
                let col = t.mul_const(panel, nr);
                let residual = if self.p.residual.is_some() { "%r, " } else { "" };
                t.line(format_args!(
                    "func.call @{}({a}, {a_offset}, %bp, {b_offset}, {residual}%c, {row}, {col}, {}, {}) : ({}) -> ()",
                    self.micro_name(rows, edge.is_some()),
                    block.depth,
                    block.first,
                    self.micro_types()
                ));
            });
        });
    }
}

/// What a tile is added to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addend {
    Nothing,
    C,
    Residual,
}
