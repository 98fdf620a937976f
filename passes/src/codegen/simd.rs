//! Vector arithmetic for generated kernels: one width per CPU level, own exponential and logarithm, conversions of bf16.

use super::emit::{Buf, Emit, Val, list};
use super::half::Half;
use athanor_ir::target::CpuLevel;

/// Stands for minus infinity in scores: far below any score, and differences of it do not overflow into NaN.
pub const LOWEST: f64 = -3.0e38;

/// Element type of a tensor in memory; arithmetic is f32 throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Float {
    /// As MLIR writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// The vector shape and instructions of a CPU level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd {
    /// f32 lanes of a register.
    pub lanes: usize,
    /// Rows of a register tile.
    pub rows: usize,
    /// Vectors in a row of a register tile.
    pub cols: usize,
    /// The level has fused multiply-add.
    pub fma: bool,
    /// The level rounds f32 to bf16 in one instruction.
    pub rounds_bf16: bool,
    /// The level converts f16 in one instruction.
    pub f16c: bool,
}

impl Simd {
    /// What `level` offers.
    pub fn of(level: CpuLevel) -> Self {
        match level {
            CpuLevel::Portable => Self { lanes: 4, rows: 4, cols: 2, fma: false, rounds_bf16: false, f16c: false },
            CpuLevel::Avx2 => Self { lanes: 8, rows: 4, cols: 2, fma: true, rounds_bf16: false, f16c: true },
            CpuLevel::Avx512 => Self { lanes: 16, rows: 8, cols: 2, fma: true, rounds_bf16: false, f16c: true },
            CpuLevel::Amx => Self { lanes: 16, rows: 8, cols: 2, fma: true, rounds_bf16: true, f16c: true },
        }
    }

    /// Two registers of f32 rounded to one of bf16, the lanes of `a` first. For levels that round in one instruction.
    pub fn join_bf16(&self, e: &mut Emit, a: Val, b: Val) -> Val {
        let n = 2 * self.lanes;
        let lanes: Vec<String> = (0..n).map(|l| l.to_string()).collect();
        let ty = self.ty();
        let both = e.val(format_args!("vector.shuffle {a}, {b} [{}] : {ty}, {ty}", lanes.join(", ")));
        e.val(format_args!("arith.truncf {both} : vector<{n}xf32> to vector<{n}xbf16>"))
    }

    /// Two registers of f32 rounded to one of bf16, lanes of `a` and `b` alternating.
    pub fn pair_bf16(&self, e: &mut Emit, a: Val, b: Val) -> Val {
        let n = 2 * self.lanes;
        let both = self.join_bf16(e, a, b);
        let lanes: Vec<String> = (0..n).map(|l| (l / 2 + self.lanes * (l % 2)).to_string()).collect();
        let ty = format!("vector<{n}xbf16>");
        e.val(format_args!("vector.shuffle {both}, {both} [{}] : {ty}, {ty}", lanes.join(", ")))
    }

    /// The first (`part` 0) or second half of the lanes of two bf16 registers, alternating.
    pub fn weave_bf16(&self, e: &mut Emit, a: Val, b: Val, part: usize) -> Val {
        let n = 2 * self.lanes;
        let lanes: Vec<String> = (0..n).map(|l| (part * self.lanes + l / 2 + n * (l % 2)).to_string()).collect();
        let ty = format!("vector<{n}xbf16>");
        e.val(format_args!("vector.shuffle {a}, {b} [{}] : {ty}, {ty}", lanes.join(", ")))
    }

    /// Stores a full register of bf16.
    pub fn store_bf16(&self, e: &mut Emit, value: Val, buf: &Buf, at: &[Val]) {
        let ty = format!("vector<{}xbf16>", 2 * self.lanes);
        e.stmt(format_args!("vector.store {value}, {}[{}] : {}, {ty}", buf.val, list(at), buf.ty()));
    }

    /// The same instructions on vectors of `lanes`, for what is left of a row.
    #[must_use]
    pub fn narrowed(self, lanes: usize) -> Self {
        Self { lanes, ..self }
    }

    /// Type of a full register of f32.
    pub fn ty(&self) -> String {
        format!("vector<{}xf32>", self.lanes)
    }

    /// The same number in every lane.
    pub fn splat(&self, e: &mut Emit, x: f64) -> Val {
        e.val(format_args!("arith.constant dense<{}> : {}", f32_text(x), self.ty()))
    }

    /// A scalar in every lane.
    pub fn broadcast(&self, e: &mut Emit, scalar: Val) -> Val {
        e.val(format_args!("vector.broadcast {scalar} : f32 to {}", self.ty()))
    }

    /// A binary operation on full registers, such as `addf`; products may be fused into sums.
    pub fn op(&self, e: &mut Emit, op: &str, a: Val, b: Val) -> Val {
        e.val(format_args!("arith.{op} {a}, {b} fastmath<contract> : {}", self.ty()))
    }

    /// `a * b + c`.
    pub fn fma(&self, e: &mut Emit, a: Val, b: Val, c: Val) -> Val {
        if self.fma {
            return e.val(format_args!("vector.fma {a}, {b}, {c} : {}", self.ty()));
        }
        let product = self.op(e, "mulf", a, b);
        self.op(e, "addf", product, c)
    }

    /// The larger of two, `b` where either is NaN (the machine's own rule).
    pub fn max(&self, e: &mut Emit, a: Val, b: Val) -> Val {
        let larger = e.val(format_args!("arith.cmpf ogt, {a}, {b} : {}", self.ty()));
        self.select(e, larger, a, b)
    }

    /// `a` where the mask holds, else `b`.
    pub fn select(&self, e: &mut Emit, mask: Val, a: Val, b: Val) -> Val {
        e.val(format_args!("arith.select {mask}, {a}, {b} : vector<{}xi1>, {}", self.lanes, self.ty()))
    }

    /// `width` lanes times a constant.
    pub fn times(&self, e: &mut Emit, x: Val, factor: f64, width: usize) -> Val {
        if factor == 1.0 {
            return x;
        }
        let ty = format!("vector<{width}xf32>");
        let factor = e.val(format_args!("arith.constant dense<{}> : {ty}", f32_text(factor)));
        e.val(format_args!("arith.mulf {x}, {factor} fastmath<contract> : {ty}"))
    }

    /// Lane `l` of the result is lane `from(l)` of `a` followed by `b`.
    pub fn shuffle(&self, e: &mut Emit, a: Val, b: Val, from: impl Fn(usize) -> usize) -> Val {
        let lanes: Vec<String> = (0..self.lanes).map(|l| from(l).to_string()).collect();
        let ty = self.ty();
        e.val(format_args!("vector.shuffle {a}, {b} [{}] : {ty}, {ty}", lanes.join(", ")))
    }

    /// Transposes a square of `lanes` registers.
    pub fn transpose(&self, e: &mut Emit, square: &mut [Val]) {
        let lanes = self.lanes;
        // Swaps the off-diagonal quarters of ever larger squares: rows i and i + step exchange every other `step` lanes.
        let mut step = 1;
        while step < lanes {
            for i in (0..lanes).filter(|i| i & step == 0) {
                let (a, b) = (square[i], square[i + step]);
                let low = |l: usize| if l & step == 0 { l } else { lanes + l - step };
                let high = |l: usize| if l & step == 0 { l + step } else { lanes + l };
                square[i] = self.shuffle(e, a, b, low);
                square[i + step] = self.shuffle(e, a, b, high);
            }
            step *= 2;
        }
    }

    /// Loads one register from an f32 buffer.
    pub fn load(&self, e: &mut Emit, buf: &Buf, at: &[Val]) -> Val {
        e.val(format_args!("vector.load {}[{}] : {}, {}", buf.val, list(at), buf.ty(), self.ty()))
    }

    /// Stores one register to an f32 buffer.
    pub fn store(&self, e: &mut Emit, value: Val, buf: &Buf, at: &[Val]) {
        e.stmt(format_args!("vector.store {value}, {}[{}] : {}, {}", buf.val, list(at), buf.ty(), self.ty()));
    }

    /// Loads one f32 into every lane.
    pub fn load_splat(&self, e: &mut Emit, buf: &Buf, at: &[Val]) -> Val {
        let scalar = e.load(buf, at);
        self.broadcast(e, scalar)
    }

    /// 2 to the power of each lane, relative error below 2e-7 for results in the normal range.
    ///
    /// Below -127 the result is exactly 0, which is what masked scores rely on; NaN stays NaN. Arguments must be below 128.
    pub fn exp2(&self, e: &mut Emit, x: Val) -> Val {
        // x = n + f with f in [-1/2, 1/2]: adding 1.5·2^23 rounds to an integer that then sits in the low mantissa bits.
        let floor = self.splat(e, -127.0);
        let x = self.max(e, floor, x);
        let magic = self.splat(e, 12_582_912.0);
        let shifted = e.val(format_args!("arith.addf {x}, {magic} : {}", self.ty()));
        let n = e.val(format_args!("arith.subf {shifted}, {magic} : {}", self.ty()));
        let f = self.op(e, "subf", x, n);
        // Interpolation of 2^f at Chebyshev nodes with the value at 0 held at 1: error 5e-9.
        let mut p = self.splat(e, 1.545316294e-04);
        for c in [1.339086336e-03, 9.618082557e-03, 5.550357114e-02, 2.402265076e-01, 6.931471880e-01, 1.0] {
            let c = self.splat(e, c);
            p = self.fma(e, p, f, c);
        }
        // Shifting the mantissa bits of `shifted` into the exponent multiplies by 2^n; the magic number's own bits drop out.
        let ints = format!("vector<{}xi32>", self.lanes);
        let bits = e.val(format_args!("arith.bitcast {shifted} : {} to {ints}", self.ty()));
        let by = e.val(format_args!("arith.constant dense<23> : {ints}"));
        let power = e.val(format_args!("arith.shli {bits}, {by} : {ints}"));
        let p = e.val(format_args!("arith.bitcast {p} : {} to {ints}", self.ty()));
        let scaled = e.val(format_args!("arith.addi {p}, {power} : {ints}"));
        e.val(format_args!("arith.bitcast {scaled} : {ints} to {}", self.ty()))
    }

    /// Natural logarithm of each lane, for positive normal numbers; NaN stays NaN.
    pub fn ln(&self, e: &mut Emit, x: Val) -> Val {
        // x = 2^n · m with m in [sqrt(1/2), sqrt(2)): the bits of sqrt(1/2) are the origin of the exponent.
        let ints = format!("vector<{}xi32>", self.lanes);
        let int = |e: &mut Emit, n: i64| e.val(format_args!("arith.constant dense<{n}> : {ints}"));
        let bits = e.val(format_args!("arith.bitcast {x} : {} to {ints}", self.ty()));
        let origin = int(e, 0x3f35_04f3);
        let from_origin = e.val(format_args!("arith.subi {bits}, {origin} : {ints}"));
        let by = int(e, 23);
        let n = e.val(format_args!("arith.shrsi {from_origin}, {by} : {ints}"));
        let exponent = e.val(format_args!("arith.shli {n}, {by} : {ints}"));
        let mantissa = e.val(format_args!("arith.subi {bits}, {exponent} : {ints}"));
        let m = e.val(format_args!("arith.bitcast {mantissa} : {ints} to {}", self.ty()));
        let n = e.val(format_args!("arith.sitofp {n} : {ints} to {}", self.ty()));
        // ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172: the series to s^9 is exact to 1e-9.
        let one = self.splat(e, 1.0);
        let above = self.op(e, "subf", m, one);
        let below = self.op(e, "addf", m, one);
        let s = self.op(e, "divf", above, below);
        let s2 = self.op(e, "mulf", s, s);
        let mut p = self.splat(e, 2.0 / 9.0);
        for c in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
            let c = self.splat(e, c);
            p = self.fma(e, p, s2, c);
        }
        let p = self.op(e, "mulf", p, s);
        let ln2 = self.splat(e, std::f64::consts::LN_2);
        let y = self.fma(e, n, ln2, p);
        let sane = e.val(format_args!("arith.cmpf ord, {x}, {x} : {}", self.ty()));
        self.select(e, sane, y, x)
    }

    /// Loads `width` elements as f32.
    pub fn widen(&self, e: &mut Emit, buf: &Buf, at: &[Val], width: usize) -> Val {
        let element = buf.element;
        let raw =
            e.val(format_args!("vector.load {}[{}] : {}, vector<{width}x{element}>", buf.val, list(at), buf.ty()));
        if element == "f32" {
            return raw;
        }
        if element == "f16" {
            let bits = e.val(format_args!("arith.bitcast {raw} : vector<{width}xf16> to vector<{width}xi16>"));
            let mut emit = |op: &str| e.val(format_args!("{op}"));
            return Half { emit: &mut emit, lanes: Some(width), f16c: self.f16c }.widen(&bits);
        }
        // A bf16 is the upper half of an f32.
        let bits = e.val(format_args!("arith.bitcast {raw} : vector<{width}xbf16> to vector<{width}xi16>"));
        let wide = e.val(format_args!("arith.extui {bits} : vector<{width}xi16> to vector<{width}xi32>"));
        let by = e.val(format_args!("arith.constant dense<16> : vector<{width}xi32>"));
        let high = e.val(format_args!("arith.shli {wide}, {by} : vector<{width}xi32>"));
        e.val(format_args!("arith.bitcast {high} : vector<{width}xi32> to vector<{width}xf32>"))
    }

    /// Stores `width` f32 lanes as the buffer's element type, rounding to nearest even.
    pub fn narrow(&self, e: &mut Emit, value: Val, buf: &Buf, at: &[Val], width: usize) {
        let element = buf.element;
        let value = match element {
            "f32" => value,
            "f16" => self.round_f16(e, value, width),
            _ => self.round_bf16(e, value, width),
        };
        e.stmt(format_args!(
            "vector.store {value}, {}[{}] : {}, vector<{width}x{element}>",
            buf.val,
            list(at),
            buf.ty()
        ));
    }

    /// Copies `width` elements between buffers of the same element type.
    pub fn copy(&self, e: &mut Emit, (src, at): (&Buf, &[Val]), (dst, to): (&Buf, &[Val]), width: usize) {
        let ty = format!("vector<{width}x{}>", src.element);
        let x = e.val(format_args!("vector.load {}[{}] : {}, {ty}", src.val, list(at), src.ty()));
        e.stmt(format_args!("vector.store {x}, {}[{}] : {}, {ty}", dst.val, list(to), dst.ty()));
    }

    /// Rounds `width` lanes of f32 to f16.
    fn round_f16(&self, e: &mut Emit, value: Val, width: usize) -> Val {
        let mut emit = |op: &str| e.val(format_args!("{op}"));
        let bits = Half { emit: &mut emit, lanes: Some(width), f16c: self.f16c }.narrow(&value);
        e.val(format_args!("arith.bitcast {bits} : vector<{width}xi16> to vector<{width}xf16>"))
    }

    /// Rounds `width` lanes of f32 to bf16.
    pub fn round_bf16(&self, e: &mut Emit, value: Val, width: usize) -> Val {
        let (f32s, ints) = (format!("vector<{width}xf32>"), format!("vector<{width}xi32>"));
        // Narrower than an instruction, LLVM would call a library function.
        if self.rounds_bf16 && width >= 4 {
            return e.val(format_args!("arith.truncf {value} : {f32s} to vector<{width}xbf16>"));
        }
        let int = |e: &mut Emit, n: i64| e.val(format_args!("arith.constant dense<{n}> : {ints}"));
        let bits = e.val(format_args!("arith.bitcast {value} : {f32s} to {ints}"));
        let sixteen = int(e, 16);
        let high = e.val(format_args!("arith.shrui {bits}, {sixteen} : {ints}"));
        let one = int(e, 1);
        let odd = e.val(format_args!("arith.andi {high}, {one} : {ints}"));
        let half = int(e, 0x7fff);
        let bias = e.val(format_args!("arith.addi {odd}, {half} : {ints}"));
        let sum = e.val(format_args!("arith.addi {bits}, {bias} : {ints}"));
        let rounded = e.val(format_args!("arith.shrui {sum}, {sixteen} : {ints}"));
        // Rounding must not turn a NaN into a number.
        let nan = int(e, 0x7fc0);
        let sane = e.val(format_args!("arith.cmpf ord, {value}, {value} : {f32s}"));
        let kept = e.val(format_args!("arith.select {sane}, {rounded}, {nan} : vector<{width}xi1>, {ints}"));
        let short = e.val(format_args!("arith.trunci {kept} : {ints} to vector<{width}xi16>"));
        e.val(format_args!("arith.bitcast {short} : vector<{width}xi16> to vector<{width}xbf16>"))
    }

    /// Sum of `width` lanes, in a fixed order.
    pub fn reduce_add(&self, e: &mut Emit, x: Val, width: usize) -> Val {
        e.val(format_args!("vector.reduction <add>, {x} fastmath<reassoc> : vector<{width}xf32> into f32"))
    }

    /// Covers a row of `width` elements by full registers in a loop and narrower ones behind it.
    pub fn cover(&self, e: &mut Emit, width: usize, mut body: impl FnMut(&mut Emit, &Self, Val)) {
        let whole = width / self.lanes * self.lanes;
        if whole > 0 {
            let (zero, hi) = (e.index(0), e.index(whole));
            e.each(zero, hi, self.lanes, |e, c| body(e, self, c));
        }
        for (c, n) in self.chunks(width).into_iter().filter(|(c, _)| *c >= whole) {
            let c = e.index(c);
            body(e, &self.narrowed(n), c);
        }
    }

    /// One element of a float buffer as f32.
    pub fn scalar(&self, e: &mut Emit, buf: &Buf, at: &[Val]) -> Val {
        let one = self.widen(e, buf, at, 1);
        e.val(format_args!("vector.extract {one}[0] : f32 from vector<1xf32>"))
    }

    /// Covers `n` elements by vectors: (offset, width), full registers first, then halves.
    pub fn chunks(&self, n: usize) -> Vec<(usize, usize)> {
        let (mut at, mut width, mut out) = (0, self.lanes, Vec::new());
        while at < n {
            while at + width <= n {
                out.push((at, width));
                at += width;
            }
            width /= 2;
        }
        out
    }
}

/// The nearest f32 as a float literal of MLIR.
pub fn f32_text(x: f64) -> String {
    format!("{:.12e}", f64::from(x as f32))
}
