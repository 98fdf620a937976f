//! AMX kernels without AMX: tiles become places in memory and their instructions loops over rows, so that packing, loops
//! and write-back of a kernel can be checked on a machine that has no tiles. What the hardware does is not checked.
//!
//! A tile is the number of the operation that made it. That is right as long as a result is not used any more when its
//! operation runs again, but to make the next one: so it is with sums carried by a loop.

use std::fmt::Write as _;

use athanor_passes::codegen::llvm::KernelText;

const SUM: &str = "!amx.tile<16x16xf32>";
const HALF: &str = "!amx.tile<16x32xbf16>";

/// `text` with every tile operation replaced by a call of a function on memory.
pub fn without_tiles(text: &KernelText) -> KernelText {
    let made = |tile: &str| {
        let makes = |l: &&str| l.contains(" = amx.") && l.ends_with(tile);
        text.mlir.lines().filter(makes).count().max(1)
    };
    let sums = format!("memref<{}x16x16xf32>", made(SUM));
    let halves = format!("memref<{}x16x32xbf16>", made(HALF));
    let mut out = String::new();
    let mut functions: Vec<(bool, String, bool)> = vec![];
    let (mut next_sum, mut next_half) = (0, 0);
    for line in text.mlir.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The result's name, and its number among those of its kind.
        let mut number = |half: bool| {
            let next = if half { &mut next_half } else { &mut next_sum };
            *next += 1;
            let _ = writeln!(out, "{} = arith.constant {} : index", words[0], *next - 1);
        };
        let mut function = |stores: bool, ty: &str, half: bool| {
            let key = (stores, ty.to_owned(), half);
            let known = functions.iter().position(|f| *f == key);
            known.unwrap_or_else(|| {
                functions.push(key);
                functions.len() - 1
            })
        };
        let tiles = |half: bool| if half { ("%halves", &halves) } else { ("%sums_of_tiles", &sums) };
        match words[..] {
            [result, "=", "amx.tile_zero", ..] => {
                number(false);
                let _ =
                    writeln!(out, "func.call @{}_zero(%sums_of_tiles, {result}) : ({sums}, index) -> ()", text.symbol);
            }
            [result, "=", "amx.tile_load", ..] => {
                let a = Access::of(line, " into ");
                let half = a.tile == HALF;
                number(half);
                let f = function(false, a.ty, half);
                let (name, ty) = tiles(half);
                let _ = writeln!(
                    out,
                    "func.call @{}_tile{f}({}, {}, {name}, {result}) : ({}, index, index, {ty}, index) -> ()",
                    text.symbol, a.memref, a.indices, a.ty
                );
            }
            ["amx.tile_store", ..] => {
                let a = Access::of(line, ", ");
                let f = function(true, a.ty, false);
                let _ = writeln!(
                    out,
                    "func.call @{}_tile{f}({}, {}, %sums_of_tiles, {}) : ({}, index, index, {sums}, index) -> ()",
                    text.symbol, a.memref, a.indices, a.value, a.ty
                );
            }
            [result, "=", "amx.tile_mulf", a, b, c, ..] => {
                number(false);
                let _ = writeln!(
                    out,
                    "func.call @{}_mulf(%halves, %sums_of_tiles, {a} {b} {c}, {result}) : \
                     ({halves}, {sums}, index, index, index, index) -> ()",
                    text.symbol
                );
            }
            _ => {
                let _ = writeln!(out, "{}", line.replace(SUM, "index").replace(HALF, "index"));
            }
        }
        if line.starts_with(&format!("func.func @{}(", text.symbol)) {
            let _ = writeln!(out, "%sums_of_tiles = memref.alloca() : {sums}\n%halves = memref.alloca() : {halves}");
        }
    }
    assert!(!out.contains("amx."), "an operation on tiles is not known here");
    for (i, (stores, ty, half)) in functions.iter().enumerate() {
        let (tiles, vector) = if *half { (&halves, "vector<32xbf16>") } else { (&sums, "vector<16xf32>") };
        let copy = if *stores {
            format!(
                "%v = vector.load %t[%n, %r, %c0] : {tiles}, {vector}\nvector.store %v, %m[%i, %col] : {ty}, {vector}"
            )
        } else {
            format!(
                "%v = vector.load %m[%i, %col] : {ty}, {vector}\nvector.store %v, %t[%n, %r, %c0] : {tiles}, {vector}"
            )
        };
        let params = format!("%m: {ty}, %row: index, %col: index, %t: {tiles}, %n: index");
        let body = format!("%i = arith.addi %row, %r : index\n{copy}");
        rows(&mut out, &format!("{}_tile{i}", text.symbol), &params, &body);
    }
    let zero = format!(
        "%v = arith.constant dense<0.0> : vector<16xf32>\n\
         vector.store %v, %t[%n, %r, %c0] : {sums}, vector<16xf32>"
    );
    rows(&mut out, &format!("{}_zero", text.symbol), &format!("%t: {sums}, %n: index"), &zero);
    multiply(&mut out, &text.symbol, (&halves, &sums));
    KernelText { mlir: out, ..text.clone() }
}

/// An access `%memref[%row, %column](, %value)? : type (into|,) tile`.
#[derive(Clone, Copy)]
struct Access<'a> {
    memref: &'a str,
    indices: &'a str,
    value: &'a str,
    ty: &'a str,
    tile: &'a str,
}

impl<'a> Access<'a> {
    fn of(line: &'a str, before_tile: &str) -> Self {
        let (head, types) = line.split_once(" : ").unwrap();
        let (ty, tile) = types.rsplit_once(before_tile).unwrap();
        let (memref, rest) = head.split_once('[').unwrap();
        let (indices, value) = rest.split_once(']').unwrap();
        let memref = &memref[memref.rfind('%').unwrap()..];
        Self { memref, indices, value: value.trim_start_matches(", "), ty, tile }
    }
}

/// A function that does `body` for each row `%r` of a tile.
fn rows(out: &mut String, name: &str, params: &str, body: &str) {
    let _ = writeln!(
        out,
        "func.func private @{name}({params}) {{\n%c0 = arith.constant 0 : index\n%c1 = arith.constant 1 : index\n\
         %c16 = arith.constant 16 : index\nscf.for %r = %c0 to %c16 step %c1 {{\n{body}\n}}\nreturn\n}}"
    );
}

/// D\[r\] = C\[r\] + Σ over p of A\[r, 2p\]·B\[p, even\] + A\[r, 2p + 1\]·B\[p, odd\], where row p of B holds pairs of k.
fn multiply(out: &mut String, symbol: &str, (halves, sums): (&str, &str)) {
    let order = |odd: usize| (0..16).map(|l| (2 * l + odd).to_string()).collect::<Vec<_>>().join(", ");
    let half = |odd: usize| {
        format!(
            "%x{odd} = memref.load %h[%a, %r, %k{odd}] : {halves}\n\
             %w{odd} = arith.extf %x{odd} : bf16 to f32\n\
             %y{odd} = vector.broadcast %w{odd} : f32 to vector<16xf32>\n\
             %b{odd} = vector.shuffle %wide, %wide [{}] : vector<32xf32>, vector<32xf32>\n\
             %s{} = vector.fma %y{odd}, %b{odd}, %s{odd} : vector<16xf32>\n",
            order(odd),
            odd + 1
        )
    };
    let body = format!(
        "%sum = vector.load %t[%c, %r, %c0] : {sums}, vector<16xf32>\n\
         %all = scf.for %p = %c0 to %c16 step %c1 iter_args(%s0 = %sum) -> (vector<16xf32>) {{\n\
         %pairs = vector.load %h[%b, %p, %c0] : {halves}, vector<32xbf16>\n\
         %wide = arith.extf %pairs : vector<32xbf16> to vector<32xf32>\n\
         %k0 = arith.addi %p, %p : index\n%k1 = arith.addi %k0, %c1 : index\n{}{}\
         scf.yield %s2 : vector<16xf32>\n}}\n\
         vector.store %all, %t[%d, %r, %c0] : {sums}, vector<16xf32>",
        half(0),
        half(1)
    );
    let params = format!("%h: {halves}, %t: {sums}, %a: index, %b: index, %c: index, %d: index");
    rows(out, &format!("{symbol}_mulf"), &params, &body);
}
