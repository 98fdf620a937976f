//! Writes MLIR text: fresh value names, nesting, and the index arithmetic that every loop nest needs.

use std::fmt::{self, Display, Write};

/// An SSA value of the function being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Val {
    /// A parameter of the function.
    Arg(&'static str),
    /// A buffer parameter of the function, by position.
    Param(u32),
    /// The result of an operation.
    Temp(u32),
    /// One result of an operation that has several.
    Part(u32, u32),
}

impl Display for Val {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arg(name) => write!(f, "%{name}"),
            Self::Param(n) => write!(f, "%p{n}"),
            Self::Temp(n) => write!(f, "%{n}"),
            Self::Part(n, i) => write!(f, "%{n}#{i}"),
        }
    }
}

/// A buffer: a value with its static memref type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buf {
    /// The memref.
    pub val: Val,
    /// Sizes, outermost first.
    pub dims: Vec<usize>,
    /// Element type as MLIR writes it.
    pub element: &'static str,
}

impl Buf {
    /// A parameter called `name`.
    pub fn arg(name: &'static str, dims: &[usize], element: &'static str) -> Self {
        Self { val: Val::Arg(name), dims: dims.to_vec(), element }
    }

    /// The memref type.
    pub fn ty(&self) -> String {
        let mut ty = String::from("memref<");
        for dim in &self.dims {
            let _ = write!(ty, "{dim}x");
        }
        ty + self.element + ">"
    }
}

/// The text of functions under construction.
///
/// Writing to a `String` cannot fail, so the results of `write!` are dropped.
#[derive(Debug, Default)]
pub struct Emit {
    text: String,
    depth: usize,
    next: u32,
}

impl Emit {
    /// The text written so far.
    pub fn finish(self) -> String {
        self.text
    }

    /// Writes one line that defines nothing.
    pub fn stmt(&mut self, line: impl Display) {
        let _ = writeln!(self.text, "{:1$}{line}", "", 2 * self.depth);
    }

    /// Writes one operation with one result.
    pub fn val(&mut self, op: impl Display) -> Val {
        let name = Val::Temp(self.next);
        self.next += 1;
        self.stmt(format_args!("{name} = {op}"));
        name
    }

    /// Writes a function whose buffers do not overlap. `private` functions are helpers of the kernel.
    pub fn func(&mut self, name: &str, private: bool, bufs: &[&Buf], indices: &[&str], body: impl FnOnce(&mut Self)) {
        let mut params: Vec<String> = bufs.iter().map(|b| format!("{}: {} {{llvm.noalias}}", b.val, b.ty())).collect();
        params.extend(indices.iter().map(|i| format!("%{i}: index")));
        let visibility = if private { "private " } else { "" };
        self.next = 0;
        self.stmt(format_args!("func.func {visibility}@{name}({}) {{", params.join(", ")));
        self.nested(body);
        self.stmt("  return");
        self.stmt("}");
    }

    fn nested<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        self.depth += 1;
        let result = body(self);
        self.depth -= 1;
        result
    }

    /// Calls a function written by [`Self::func`].
    pub fn call(&mut self, name: &str, bufs: &[&Buf], indices: &[Val]) {
        let args: Vec<String> =
            bufs.iter().map(|b| b.val).chain(indices.iter().copied()).map(|v| v.to_string()).collect();
        let mut types: Vec<String> = bufs.iter().map(|b| b.ty()).collect();
        types.extend(indices.iter().map(|_| "index".to_owned()));
        self.stmt(format_args!("func.call @{name}({}) : ({}) -> ()", args.join(", "), types.join(", ")));
    }

    /// `for i in lo..hi` by `step`.
    pub fn each(&mut self, lo: Val, hi: Val, step: usize, body: impl FnOnce(&mut Self, Val)) {
        let step = self.index(step);
        let i = self.fresh();
        self.stmt(format_args!("scf.for {i} = {lo} to {hi} step {step} {{"));
        self.nested(|e| body(e, i));
        self.stmt("}");
    }

    /// `for i in lo..hi` by `step`, carrying `init` (all of type `ty`) round the loop.
    pub fn fold(
        &mut self,
        (lo, hi, step): (Val, Val, usize),
        init: &[Val],
        ty: &str,
        body: impl FnOnce(&mut Self, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        if init.is_empty() {
            self.each(lo, hi, step, |e, i| _ = body(e, i, &[]));
            return vec![];
        }
        let step = self.index(step);
        let (i, result) = (self.fresh(), self.fresh_number());
        let carried: Vec<Val> = init.iter().map(|_| self.fresh()).collect();
        let pairs: Vec<String> = carried.iter().zip(init).map(|(c, v)| format!("{c} = {v}")).collect();
        let types = vec![ty; init.len()].join(", ");
        self.stmt(format_args!(
            "%{result}:{} = scf.for {i} = {lo} to {hi} step {step} iter_args({}) -> ({types}) {{",
            init.len(),
            pairs.join(", ")
        ));
        self.nested(|e| {
            let next = body(e, i, &carried);
            e.stmt(format_args!("scf.yield {} : {types}", list(&next)));
        });
        self.stmt("}");
        (0..init.len() as u32).map(|k| Val::Part(result, k)).collect()
    }

    /// Runs `then` where `condition` holds.
    pub fn when(&mut self, condition: Val, then: impl FnOnce(&mut Self)) {
        self.stmt(format_args!("scf.if {condition} {{"));
        self.nested(then);
        self.stmt("}");
    }

    /// Runs `then` where `condition` holds, and `otherwise` where it does not.
    pub fn either(&mut self, condition: Val, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        self.stmt(format_args!("scf.if {condition} {{"));
        self.nested(then);
        self.stmt("} else {");
        self.nested(otherwise);
        self.stmt("}");
    }

    /// `values`, replaced by what `then` makes of them where `condition` holds.
    pub fn amend(
        &mut self,
        condition: Val,
        values: &[Val],
        ty: &str,
        then: impl FnOnce(&mut Self) -> Vec<Val>,
    ) -> Vec<Val> {
        let result = self.fresh_number();
        let types = vec![ty; values.len()].join(", ");
        self.stmt(format_args!("%{result}:{} = scf.if {condition} -> ({types}) {{", values.len()));
        self.nested(|e| {
            let changed = then(e);
            e.stmt(format_args!("scf.yield {} : {types}", list(&changed)));
        });
        self.stmt("} else {");
        self.stmt(format_args!("  scf.yield {} : {types}", list(values)));
        self.stmt("}");
        (0..values.len() as u32).map(|k| Val::Part(result, k)).collect()
    }

    /// A constant index.
    pub fn index(&mut self, n: usize) -> Val {
        self.val(format_args!("arith.constant {n} : index"))
    }

    /// A binary operation on indices, such as `addi`.
    pub fn idx(&mut self, op: &str, a: Val, b: Val) -> Val {
        self.val(format_args!("arith.{op} {a}, {b} : index"))
    }

    /// A binary operation on an index and a constant; nothing is written where it changes nothing.
    pub fn idx_c(&mut self, op: &str, a: Val, c: usize) -> Val {
        if (c == 0 && matches!(op, "addi" | "subi")) || (c == 1 && matches!(op, "muli" | "divui")) {
            return a;
        }
        let c = self.index(c);
        self.idx(op, a, c)
    }

    /// The largest multiple of `m` that is at most `a`.
    pub fn floor_to(&mut self, a: Val, m: usize) -> Val {
        let q = self.idx_c("divui", a, m);
        self.idx_c("muli", q, m)
    }

    /// The smallest multiple of `m` that is at least `a`.
    pub fn ceil_to(&mut self, a: Val, m: usize) -> Val {
        let a = self.idx_c("addi", a, m - 1);
        self.floor_to(a, m)
    }

    /// A comparison of indices, such as `slt`.
    pub fn test(&mut self, predicate: &str, a: Val, b: Val) -> Val {
        self.val(format_args!("arith.cmpi {predicate}, {a}, {b} : index"))
    }

    /// Part of a byte buffer, from byte `at` on, as a matrix or vector.
    pub fn view(&mut self, bytes: &Buf, at: Val, dims: &[usize], element: &'static str) -> Buf {
        let mut buf = Buf { val: Val::Temp(0), dims: dims.to_vec(), element };
        buf.val = self.val(format_args!("memref.view {}[{at}][] : {} to {}", bytes.val, bytes.ty(), buf.ty()));
        buf
    }

    /// One element.
    pub fn load(&mut self, buf: &Buf, at: &[Val]) -> Val {
        self.val(format_args!("memref.load {}[{}] : {}", buf.val, list(at), buf.ty()))
    }

    /// Stores one element.
    pub fn store(&mut self, value: Val, buf: &Buf, at: &[Val]) {
        self.stmt(format_args!("memref.store {value}, {}[{}] : {}", buf.val, list(at), buf.ty()));
    }

    /// Asks for the cache line of an element that will soon be read or written; the place may lie outside the buffer.
    pub fn prefetch(&mut self, buf: &Buf, at: &[Val], write: bool) {
        let how = if write { "write" } else { "read" };
        self.stmt(format_args!("memref.prefetch {}[{}], {how}, locality<3>, data : {}", buf.val, list(at), buf.ty()));
    }

    fn fresh_number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn fresh(&mut self) -> Val {
        Val::Temp(self.fresh_number())
    }
}

/// The values separated by commas.
pub fn list(values: &[Val]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
