//! f16 in kernels: bits to f32 and back, rounding to nearest even.
//!
//! From AVX2 on there are instructions for both (F16C), which LLVM takes for `arith.extf` and `arith.truncf`. Below, it would
//! call a library, so the same is written with integers. Workers flush denormal f32 to zero; no path here depends on them.

use std::fmt::{Display, Write as _};

/// Writes operations on `lanes` elements at once, or on scalars for `None`.
pub(super) struct Half<'e, V> {
    /// Appends `%v = op` and returns the value.
    pub(super) emit: &'e mut dyn FnMut(&str) -> V,
    /// Vector length.
    pub(super) lanes: Option<usize>,
    /// The machine converts in one instruction.
    pub(super) f16c: bool,
}

impl<V: Display> Half<'_, V> {
    fn ty(&self, element: &str) -> String {
        match self.lanes {
            Some(n) => format!("vector<{n}x{element}>"),
            None => element.to_owned(),
        }
    }

    fn op(&mut self, text: &str) -> V {
        (self.emit)(text)
    }

    fn int(&mut self, value: i64) -> V {
        let ty = self.ty("i32");
        let value = if self.lanes.is_some() { format!("dense<{value}>") } else { value.to_string() };
        self.op(&format!("arith.constant {value} : {ty}"))
    }

    /// `a op b` on 32-bit integers.
    fn ints(&mut self, op: &str, a: &V, b: &V) -> V {
        let ty = self.ty("i32");
        self.op(&format!("arith.{op} {a}, {b} : {ty}"))
    }

    /// `a op constant` on 32-bit integers.
    fn with(&mut self, op: &str, a: &V, constant: i64) -> V {
        let c = self.int(constant);
        self.ints(op, a, &c)
    }

    fn cast(&mut self, op: &str, x: &V, from: &str, to: &str) -> V {
        let (from, to) = (self.ty(from), self.ty(to));
        self.op(&format!("arith.{op} {x} : {from} to {to}"))
    }

    /// `a` where integer `x` is at least `limit` (both not negative), else `b`.
    fn at_least(&mut self, x: &V, limit: i64, a: &V, b: &V) -> V {
        let limit = self.int(limit);
        let (ints, bools) = (self.ty("i32"), self.ty("i1"));
        let above = self.op(&format!("arith.cmpi sge, {x}, {limit} : {ints}"));
        let mut text = format!("arith.select {above}, {a}, {b} : ");
        // Scalars are selected by a plain i1, which is not written.
        if self.lanes.is_some() {
            let _ = write!(text, "{bools}, ");
        }
        self.op(&format!("{text}{ints}"))
    }

    /// `x` times 2^`power` in f32.
    fn scaled(&mut self, x: &V, power: i32) -> V {
        let ty = self.ty("f32");
        let value = format!("0x{:08X}", 2f32.powi(power).to_bits());
        let value = if self.lanes.is_some() { format!("dense<{value}>") } else { value };
        let factor = self.op(&format!("arith.constant {value} : {ty}"));
        self.op(&format!("arith.mulf {x}, {factor} : {ty}"))
    }

    /// The f32 of the f16 whose bits (i16) are `bits`.
    pub(super) fn widen(&mut self, bits: &V) -> V {
        if self.f16c {
            let half = self.cast("bitcast", bits, "i16", "f16");
            return self.cast("extf", &half, "f16", "f32");
        }
        let word = self.cast("extui", bits, "i16", "i32");
        let (sign, size) = (self.with("andi", &word, 0x8000), self.with("andi", &word, 0x7fff));
        let sign = self.with("shli", &sign, 16);
        // Below 2⁻¹⁴ an f16 is so many times 2⁻²⁴; above, exponent and mantissa move up by 13 bits and the exponent by
        // 112, or by 224 where it says infinity.
        let small = self.cast("sitofp", &size, "i32", "f32");
        let small = self.scaled(&small, -24);
        let small = self.cast("bitcast", &small, "f32", "i32");
        let moved = self.with("shli", &size, 13);
        let (normal, infinite) = (self.with("addi", &moved, 112 << 23), self.with("addi", &moved, 224 << 23));
        let large = self.at_least(&size, 0x7c00, &infinite, &normal);
        let size = self.at_least(&size, 0x400, &large, &small);
        let word = self.ints("ori", &size, &sign);
        self.cast("bitcast", &word, "i32", "f32")
    }

    /// The bits (i16) of f32 `x` as f16; a NaN stays one.
    pub(super) fn narrow(&mut self, x: &V) -> V {
        if self.f16c {
            let half = self.cast("truncf", x, "f32", "f16");
            return self.cast("bitcast", &half, "f16", "i16");
        }
        let word = self.cast("bitcast", x, "f32", "i32");
        let sign = self.with("shrui", &word, 16);
        let (sign, size) = (self.with("andi", &sign, 0x8000), self.with("andi", &word, 0x7fff_ffff));
        // Half of what is cut off, and one more where the last bit kept is odd, minus one: ties go to even.
        let odd = self.with("shrui", &size, 13);
        let odd = self.with("andi", &odd, 1);
        let rounded = self.with("addi", &size, 0xfff);
        let rounded = self.ints("addi", &rounded, &odd);
        let rounded = self.with("shrui", &rounded, 13);
        let normal = self.with("subi", &rounded, 112 << 10);
        // Below 2⁻¹⁴ the result counts 2⁻²⁴: adding 1.5·2²³ rounds to a whole number in the low bits.
        let float = self.cast("bitcast", &size, "i32", "f32");
        let float = self.scaled(&float, 24);
        let ty = self.ty("f32");
        let magic = if self.lanes.is_some() { "dense<12582912.0>" } else { "12582912.0" };
        let magic = self.op(&format!("arith.constant {magic} : {ty}"));
        let float = self.op(&format!("arith.addf {float}, {magic} : {ty}"));
        let counted = self.cast("bitcast", &float, "f32", "i32");
        let small = self.with("subi", &counted, 0x4b40_0000);
        let (infinite, nan) = (self.int(0x7c00), self.int(0x7e00));
        let finite = self.at_least(&size, 0x3880_0000, &normal, &small);
        let large = self.at_least(&size, 0x7f80_0001, &nan, &infinite);
        let size = self.at_least(&size, 0x4780_0000, &large, &finite);
        let word = self.ints("ori", &size, &sign);
        self.cast("trunci", &word, "i32", "i16")
    }
}
