//! Writes the body of a kernel as MLIR text: fresh names, index arithmetic, loops with carried values.

use athanor_ir::target::CpuLevel;
use std::fmt::{Display, Write as _};

/// An SSA value, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// A parameter or other value called `%name`.
    pub fn named(name: &str) -> Self {
        Self(format!("%{name}"))
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// MLIR text under construction.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    next: usize,
    /// The machine converts f16 in one instruction.
    pub(super) f16c: bool,
}

impl Text {
    /// An empty text for machines of `level`.
    pub fn for_level(level: CpuLevel) -> Self {
        Self { f16c: level >= CpuLevel::Avx2, ..Self::default() }
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.out
    }

    /// Appends a line.
    pub fn line(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{line}");
    }

    fn fresh(&mut self) -> Value {
        self.next += 1;
        Value(format!("%v{}", self.next))
    }

    /// Appends `%v = op` and returns the value.
    pub fn op(&mut self, op: impl Display) -> Value {
        let value = self.fresh();
        self.line(format_args!("{value} = {op}"));
        value
    }

    /// An index constant.
    pub fn index(&mut self, value: usize) -> Value {
        self.op(format_args!("arith.constant {value} : index"))
    }

    /// `a + b` of indices.
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.op(format_args!("arith.addi {a}, {b} overflow<nsw, nuw> : index"))
    }

    /// `a + b` with a constant; `a` itself when `b` is 0.
    pub fn add_const(&mut self, a: &Value, b: usize) -> Value {
        if b == 0 {
            return a.clone();
        }
        let b = self.index(b);
        self.add(a, &b)
    }

    /// `a - b` of indices.
    pub fn sub(&mut self, a: &Value, b: &Value) -> Value {
        self.op(format_args!("arith.subi {a}, {b} : index"))
    }

    /// `a · b` with a constant; `a` itself when `b` is 1.
    pub fn mul_const(&mut self, a: &Value, b: usize) -> Value {
        if b == 1 {
            return a.clone();
        }
        let b = self.index(b);
        self.op(format_args!("arith.muli {a}, {b} overflow<nsw, nuw> : index"))
    }

    /// The smaller of two indices.
    pub fn min(&mut self, a: &Value, b: &Value) -> Value {
        self.op(format_args!("arith.minui {a}, {b} : index"))
    }

    /// The larger of two indices.
    pub fn max(&mut self, a: &Value, b: &Value) -> Value {
        self.op(format_args!("arith.maxui {a}, {b} : index"))
    }

    /// `a / b` with a constant, rounded down.
    pub fn div_const(&mut self, a: &Value, b: usize) -> Value {
        let b = self.index(b);
        self.op(format_args!("arith.divui {a}, {b} : index"))
    }

    /// `a·x + b·y + c`, the usual form of an offset.
    pub fn offset(&mut self, (x, a): (&Value, usize), (y, b): (&Value, usize)) -> Value {
        let left = self.mul_const(x, a);
        let right = self.mul_const(y, b);
        self.add(&left, &right)
    }

    /// Compares indices: `predicate` is `eq`, `ult`, …
    pub fn compare(&mut self, predicate: &str, a: &Value, b: &Value) -> Value {
        self.op(format_args!("arith.cmpi {predicate}, {a}, {b} : index"))
    }

    /// A loop from `lo` to `hi` by `step`.
    pub fn for_each(&mut self, lo: &Value, hi: &Value, step: usize, body: impl FnOnce(&mut Self, &Value)) {
        let step = self.index(step);
        let iv = self.fresh();
        self.line(format_args!("scf.for {iv} = {lo} to {hi} step {step} {{"));
        body(self, &iv);
        self.line("}");
    }

    /// A loop that carries `init`, all of type `ty`, and gives what the last turn yields.
    pub fn for_carry(
        &mut self,
        (lo, hi, step): (&Value, &Value, usize),
        init: &[Value],
        ty: &str,
        body: impl FnOnce(&mut Self, &Value, Vec<Value>) -> Vec<Value>,
    ) -> Vec<Value> {
        let step = self.index(step);
        let iv = self.fresh();
        let carried: Vec<Value> = init.iter().map(|_| self.fresh()).collect();
        let result = self.fresh();
        let bindings: Vec<String> = carried.iter().zip(init).map(|(c, i)| format!("{c} = {i}")).collect();
        let types = vec![ty; init.len()].join(", ");
        self.line(format_args!(
            "{result}:{} = scf.for {iv} = {lo} to {hi} step {step} iter_args({}) -> ({types}) {{",
            init.len(),
            bindings.join(", ")
        ));
        let yielded: Vec<String> = body(self, &iv, carried).iter().map(ToString::to_string).collect();
        self.line(format_args!("scf.yield {} : {types}\n}}", yielded.join(", ")));
        (0..init.len()).map(|i| Value(format!("{result}#{i}"))).collect()
    }

    /// `if condition { yes }`.
    pub fn when(&mut self, condition: &Value, yes: impl FnOnce(&mut Self)) {
        self.line(format_args!("scf.if {condition} {{"));
        yes(self);
        self.line("}");
    }

    /// `if condition { yes } else { no }`.
    pub fn choose(&mut self, condition: &Value, yes: impl FnOnce(&mut Self), no: impl FnOnce(&mut Self)) {
        self.line(format_args!("scf.if {condition} {{"));
        yes(self);
        self.line("} else {");
        no(self);
        self.line("}");
    }
}
