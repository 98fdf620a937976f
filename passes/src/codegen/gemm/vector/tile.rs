//! The register tile: rows × columns of C over one block of k, as a private function.

use athanor_ir::DType;
use athanor_ir::plan::MatRef;

use super::super::pack::{load, narrow_to, storage};
use super::super::text::{Text, Value};
use super::{Blocking, Order};

/// Rows of a tile that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// This many.
    Fixed(usize),
    /// As many as the call says, at most the whole tile. All are computed.
    Counted,
}

/// Where the sums of a tile go, in a product cut into blocks of k.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocks {
    /// All of k is one block.
    One,
    /// Into C after every block.
    InC,
    /// Into scratch of this type until the last block: a result in bf16 is rounded once.
    Kept(String),
}

/// What the functions of a product's register tiles have in common.
#[derive(Debug)]
pub struct Tile<'a> {
    /// Names start with it.
    pub symbol: &'a str,
    /// Sizes.
    pub blocking: Blocking,
    /// Type of what A is read from, and the distances of rows and of k in it.
    pub a: (String, usize, usize),
    /// Type of packed B.
    pub b: String,
    /// C and its type.
    pub c: (MatRef, String),
    /// What is added to the product, and its type.
    pub residual: Option<(MatRef, String)>,
    /// The product is added to C.
    pub accumulate: bool,
    /// Sums between blocks of k.
    pub blocks: Blocks,
    /// The depth of a block need not be a multiple of the turns written out.
    pub ragged: bool,
}

/// What a tile is added to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addend {
    Nothing,
    C,
    Residual,
}

/// Where a tile is read from and written to, as operands of a call.
#[derive(Debug)]
pub struct Place<'a> {
    /// Memref and element of A.
    pub a: (&'a str, &'a Value),
    /// Element of packed B.
    pub b: &'a Value,
    /// Row and column of C, and of the residual.
    pub row: &'a Value,
    /// Column of C.
    pub col: &'a Value,
    /// Rows that exist, where they are counted.
    pub count: Option<&'a Value>,
    /// First element of the kept sums.
    pub sums: Option<&'a Value>,
    /// Depth of the block.
    pub depth: &'a Value,
    /// Whether the block is the first, and the last, of k.
    pub first: &'a Value,
    /// See `first`.
    pub last: Option<&'a Value>,
}

impl Tile<'_> {
    fn name(&self, rows: Rows, edge: bool) -> String {
        let rows = if let Rows::Fixed(rows) = rows { rows.to_string() } else { "s".into() };
        format!("{}_tile{rows}{}", self.symbol, if edge { "_edge" } else { "" })
    }

    fn kept(&self) -> Option<&str> {
        if let Blocks::Kept(ty) = &self.blocks { Some(ty) } else { None }
    }

    /// Names and types of the parameters.
    fn params(&self, rows: Rows) -> Vec<(&'static str, &str)> {
        let mut all = vec![("%a", self.a.0.as_str()), ("%ao", "index"), ("%bp", &self.b), ("%bo", "index")];
        all.extend(self.residual.as_ref().map(|(_, ty)| ("%r", ty.as_str())));
        all.extend([("%c", self.c.1.as_str()), ("%row", "index"), ("%col", "index")]);
        all.extend((rows == Rows::Counted).then_some(("%count", "index")));
        all.extend(self.kept().map(|ty| ("%sums", ty)));
        all.extend(self.kept().map(|_| ("%so", "index")));
        all.extend([("%depth", "index"), ("%first", "i1")]);
        all.extend(self.kept().map(|_| ("%last", "i1")));
        all
    }

    /// Calls the tile's function.
    pub fn call(&self, t: &mut Text, rows: Rows, edge: bool, place: &Place<'_>) {
        let types: Vec<&str> = self.params(rows).into_iter().map(|p| p.1).collect();
        let residual = if self.residual.is_some() { "%r, " } else { "" };
        let (a, ao) = place.a;
        let count = place.count.map_or(String::new(), |c| format!("{c}, "));
        let sums = place.sums.map_or(String::new(), |s| format!("%sums, {s}, "));
        let last = place.last.map_or(String::new(), |l| format!(", {l}"));
        t.line(format_args!(
            "func.call @{}({a}, {ao}, %bp, {}, {residual}%c, {}, {}, {count}{sums}{}, {}{last}) : ({}) -> ()",
            self.name(rows, edge),
            place.b,
            place.row,
            place.col,
            place.depth,
            place.first,
            types.join(", ")
        ));
    }

    /// Writes the function for `rows` × `columns`; fewer columns than the tile has are its `edge`.
    pub fn function(&self, t: &mut Text, rows: Rows, columns: usize) {
        let Blocking { lanes, mr, nr, unroll, .. } = self.blocking;
        let params: Vec<String> = self.params(rows).iter().map(|(n, ty)| format!("{n}: {ty}")).collect();
        t.line(format_args!("func.func private @{}({}) {{", self.name(rows, columns < nr), params.join(", ")));
        let vector = format!("vector<{lanes}xf32>");
        let height = if let Rows::Fixed(rows) = rows { rows } else { mr };
        let depth = Value::named("depth");
        let zero = t.index(0);
        let none = t.op(format_args!("arith.constant dense<0.0> : {vector}"));
        let none = vec![none; height * 2];
        if self.blocking.order == Order::PanelByPanel {
            self.prefetch(t, height);
        }
        let sums = if self.ragged {
            let whole = t.index(unroll);
            let rest = t.op(format_args!("arith.remui {depth}, {whole} : index"));
            let whole = t.sub(&depth, &rest);
            let sums = self.multiply(t, (&zero, &whole, unroll), &none, &vector);
            self.multiply(t, (&whole, &depth, 1), &sums, &vector)
        } else {
            self.multiply(t, (&zero, &depth, unroll), &none, &vector)
        };
        self.write_back(t, (rows, height), columns, &sums);
        t.line("return\n}");
    }

    /// Fetches the tile's lines of C while the product is computed: tiles lie too far apart for the hardware to guess.
    fn prefetch(&self, t: &mut Text, height: usize) {
        let (c, ty) = &self.c;
        let base = t.offset((&Value::named("row"), c.row_stride), (&Value::named("col"), 1));
        for i in 0..height {
            let at = t.add_const(&base, i * c.row_stride);
            t.line(format_args!("memref.prefetch %c[{at}], write, locality<3>, data : {ty}"));
        }
    }

    /// Adds the products of k from `range.0` to `range.1`, `range.2` at a time.
    fn multiply(&self, t: &mut Text, range: (&Value, &Value, usize), init: &[Value], vector: &str) -> Vec<Value> {
        let Blocking { lanes, nr, .. } = self.blocking;
        let (a_type, a_row, a_col) = &self.a;
        let b_type = &self.b;
        let (ao, bo) = (Value::named("ao"), Value::named("bo"));
        t.for_carry(range, init, vector, |t, k, mut sums| {
            let a_base = t.offset((&ao, 1), (k, *a_col));
            let b_base = t.offset((&bo, 1), (k, nr));
            for u in 0..range.2 {
                let b: Vec<Value> = (0..2)
                    .map(|h| {
                        let at = t.add_const(&b_base, u * nr + h * lanes);
                        t.op(format_args!("vector.load %bp[{at}] : {b_type}, {vector}"))
                    })
                    .collect();
                for i in 0..sums.len() / 2 {
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
        })
    }

    /// Adds what is to be added and writes the tile to C, or to where its sums are kept.
    fn write_back(&self, t: &mut Text, rows: (Rows, usize), columns: usize, sums: &[Value]) {
        let initial = match (&self.residual, self.accumulate) {
            (_, true) => Addend::C,
            (Some(_), _) => Addend::Residual,
            _ => Addend::Nothing,
        };
        let (first, last) = (Value::named("first"), Value::named("last"));
        match &self.blocks {
            Blocks::One => self.write_tile(t, rows, columns, sums, initial),
            Blocks::InC if self.accumulate => self.write_tile(t, rows, columns, sums, initial),
            Blocks::InC => t.choose(
                &first,
                |t| self.write_tile(t, rows, columns, sums, initial),
                |t| self.write_tile(t, rows, columns, sums, Addend::C),
            ),
            Blocks::Kept(_) => t.choose(
                &first,
                |t| self.keep(t, sums),
                |t| {
                    let sums = self.add_kept(t, sums);
                    t.choose(&last, |t| self.write_tile(t, rows, columns, &sums, initial), |t| self.keep(t, &sums));
                },
            ),
        }
    }

    /// Elements of the kept sums, one vector each.
    fn kept_at(&self, t: &mut Text, i: usize) -> Value {
        t.add_const(&Value::named("so"), i * self.blocking.lanes)
    }

    fn keep(&self, t: &mut Text, sums: &[Value]) {
        let ty = self.kept().unwrap_or_default();
        for (i, sum) in sums.iter().enumerate() {
            let at = self.kept_at(t, i);
            t.line(format_args!("vector.store {sum}, %sums[{at}] : {ty}, vector<{}xf32>", self.blocking.lanes));
        }
    }

    fn add_kept(&self, t: &mut Text, sums: &[Value]) -> Vec<Value> {
        let ty = self.kept().unwrap_or_default();
        let vector = format!("vector<{}xf32>", self.blocking.lanes);
        let add = |(i, sum): (usize, &Value)| {
            let at = self.kept_at(t, i);
            let before = t.op(format_args!("vector.load %sums[{at}] : {ty}, {vector}"));
            t.op(format_args!("arith.addf {sum}, {before} : {vector}"))
        };
        sums.iter().enumerate().map(add).collect()
    }

    fn write_tile(&self, t: &mut Text, (rows, height): (Rows, usize), columns: usize, sums: &[Value], addend: Addend) {
        let lanes = self.blocking.lanes;
        // Columns of each vector that exist.
        let columns = [columns.min(lanes), columns.saturating_sub(lanes)];
        let (row, col) = (Value::named("row"), Value::named("col"));
        let base = t.offset((&row, self.c.0.row_stride), (&col, 1));
        let r_base = self.residual.as_ref().map(|(r, _)| t.offset((&row, r.row_stride), (&col, 1)));
        let masks = columns.map(|count| {
            (0 < count && count < lanes).then(|| {
                let count = t.index(count);
                t.op(format_args!("vector.create_mask {count} : vector<{lanes}xi1>"))
            })
        });
        let masks = masks.each_ref().map(Option::as_ref);
        for i in 0..height {
            let sums = [&sums[i * 2], &sums[i * 2 + 1]];
            let write = |t: &mut Text| {
                self.write_row(t, i, (&base, r_base.as_ref()), (columns, masks), sums, addend);
            };
            if rows == Rows::Counted && i > 0 {
                let i = t.index(i);
                let there = t.compare("ult", &i, &Value::named("count"));
                t.when(&there, write);
            } else {
                write(t);
            }
        }
    }

    /// Row `i` of the tile; `bases` are the tile's elements of C and of the residual.
    fn write_row(
        &self,
        t: &mut Text,
        i: usize,
        (base, r_base): (&Value, Option<&Value>),
        (columns, masks): ([usize; 2], [Option<&Value>; 2]),
        sums: [&Value; 2],
        addend: Addend,
    ) {
        let lanes = self.blocking.lanes;
        let (c, c_type) = &self.c;
        let wide = format!("vector<{lanes}xf32>");
        for h in (0..2).filter(|h| columns[*h] > 0) {
            let mask = masks[h];
            let at = t.add_const(base, i * c.row_stride + h * lanes);
            let mut sum = sums[h].clone();
            let other = match (addend, &self.residual, r_base) {
                (Addend::C, ..) => Some(load(t, lanes, ("%c", c_type), c.dtype, &at, mask)),
                (Addend::Residual, Some((r, ty)), Some(base)) => {
                    let at = t.add_const(base, i * r.row_stride + h * lanes);
                    Some(load(t, lanes, ("%r", ty), r.dtype, &at, mask))
                }
                _ => None,
            };
            if let Some(other) = other {
                sum = t.op(format_args!("arith.addf {sum}, {other} : {wide}"));
            }
            let mut ty = wide.clone();
            if c.dtype != DType::F32 {
                ty = format!("vector<{lanes}xi16>");
                sum = narrow_to(t, lanes, &sum, c.dtype);
            }
            match mask {
                // LLVM 22 writes 32 bits for a truncating store whose mask is a constant with one lane.
                Some(_) if columns[h] == 1 => {
                    let one = t.op(format_args!("vector.extract {sum}[0] : {} from {ty}", storage(c.dtype)));
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
